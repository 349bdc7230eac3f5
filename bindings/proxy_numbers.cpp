#include "bindings/proxy_numbers.h"

#include "bindings/errors.h"

namespace theus::bindings {
namespace {

bool is_node(PyObject* object) { return is_proxy(object) && as_proxy(object)->leaf == nullptr; }

PyObject* not_implemented() { return Ref::borrow(Py_NotImplemented).release(); }

PyObject* target_or_none(PyObject* self) {
  PyObject* target = as_proxy(self)->target;
  return target != nullptr ? target : Py_None;
}

PyObject* leaf_of(PyObject* self) { return reinterpret_cast<PyObject*>(as_proxy(self)->leaf); }

void check_leaf_usable(PyObject* self) {
  if (as_proxy(self)->context == nullptr) {
    raise(ErrorClass::kTheus, "this proxy is being collected");
  }
  check_usable(as_proxy(self)->context, self);
}

// `name` is a function of the operator module. Either side may be the proxy.
PyObject* binary(const char* name, PyObject* left, PyObject* right) {
  if (is_node(left) || (!is_proxy(left) && is_node(right))) return not_implemented();
  return guarded([&] {
    check_leaf_usable(is_proxy(left) ? left : right);
    Ref operation = Ref::check(PyUnicode_InternFromString(name));
    return call(leaf_operation(LeafOperation::kBinary), operation.get(), left, right).release();
  });
}

PyObject* inplace(const char* name, PyObject* self, PyObject* other) {
  if (!is_proxy(self) || is_node(self)) return not_implemented();
  return guarded([&] {
    check_leaf_usable(self);
    Ref operation = Ref::check(PyUnicode_InternFromString(name));
    return call(leaf_operation(LeafOperation::kInplace), self, leaf_of(self), target_or_none(self),
                operation.get(), other)
        .release();
  });
}

PyObject* unary(LeafOperation which, const char* name, PyObject* self) {
  return guarded([&] {
    if (is_node(self)) raise(PyExc_TypeError, "a mapping node is no number");
    check_leaf_usable(self);
    Ref operation = Ref::check(PyUnicode_InternFromString(name));
    return call(leaf_operation(which), self, leaf_of(self), target_or_none(self), operation.get())
        .release();
  });
}

PyObject* either_or(PyObject* left, PyObject* right) {
  if (is_node(left) || is_node(right)) return node_or(left, right);
  return binary("or_", left, right);
}

PyObject* inplace_or(PyObject* self, PyObject* other) {
  return is_node(self) ? node_inplace_or(self, other) : inplace("ior", self, other);
}

#define THEUS_BINARY(name, text) \
  PyObject* name(PyObject* left, PyObject* right) { return binary(text, left, right); }
#define THEUS_INPLACE(name, text) \
  PyObject* name(PyObject* self, PyObject* other) { return inplace(text, self, other); }
#define THEUS_UNARY(name, which, text) \
  PyObject* name(PyObject* self) { return unary(LeafOperation::which, text, self); }

THEUS_BINARY(add, "add")
THEUS_BINARY(subtract, "sub")
THEUS_BINARY(multiply, "mul")
THEUS_BINARY(matrix_multiply, "matmul")
THEUS_BINARY(true_divide, "truediv")
THEUS_BINARY(floor_divide, "floordiv")
THEUS_BINARY(remainder, "mod")
THEUS_BINARY(divide_modulo, "divmod")
THEUS_BINARY(left_shift, "lshift")
THEUS_BINARY(right_shift, "rshift")
THEUS_BINARY(bit_and, "and_")
THEUS_BINARY(bit_xor, "xor")
THEUS_INPLACE(inplace_add, "iadd")
THEUS_INPLACE(inplace_subtract, "isub")
THEUS_INPLACE(inplace_multiply, "imul")
THEUS_INPLACE(inplace_matrix_multiply, "imatmul")
THEUS_INPLACE(inplace_true_divide, "itruediv")
THEUS_INPLACE(inplace_floor_divide, "ifloordiv")
THEUS_INPLACE(inplace_remainder, "imod")
THEUS_INPLACE(inplace_left_shift, "ilshift")
THEUS_INPLACE(inplace_right_shift, "irshift")
THEUS_INPLACE(inplace_and, "iand")
THEUS_INPLACE(inplace_xor, "ixor")
THEUS_UNARY(negative, kUnary, "neg")
THEUS_UNARY(positive, kUnary, "pos")
THEUS_UNARY(absolute, kUnary, "abs")
THEUS_UNARY(invert, kUnary, "invert")
THEUS_UNARY(to_int, kConvert, "int")
THEUS_UNARY(to_float, kConvert, "float")
THEUS_UNARY(to_index, kConvert, "index")

#undef THEUS_BINARY
#undef THEUS_INPLACE
#undef THEUS_UNARY

PyObject* power(PyObject* left, PyObject* right, PyObject* modulus) {
  return modulus == Py_None ? binary("pow", left, right) : not_implemented();
}

PyObject* inplace_power(PyObject* self, PyObject* other, PyObject*) {
  return inplace("ipow", self, other);
}

template <class Function>
void* slot(Function function) {
  return reinterpret_cast<void*>(function);
}

}  // namespace

void add_number_slots(std::vector<PyType_Slot>* slots) {
  const PyType_Slot numbers[] = {
      {Py_nb_add, slot(add)},
      {Py_nb_subtract, slot(subtract)},
      {Py_nb_multiply, slot(multiply)},
      {Py_nb_matrix_multiply, slot(matrix_multiply)},
      {Py_nb_true_divide, slot(true_divide)},
      {Py_nb_floor_divide, slot(floor_divide)},
      {Py_nb_remainder, slot(remainder)},
      {Py_nb_divmod, slot(divide_modulo)},
      {Py_nb_power, slot(power)},
      {Py_nb_lshift, slot(left_shift)},
      {Py_nb_rshift, slot(right_shift)},
      {Py_nb_and, slot(bit_and)},
      {Py_nb_or, slot(either_or)},
      {Py_nb_xor, slot(bit_xor)},
      {Py_nb_inplace_add, slot(inplace_add)},
      {Py_nb_inplace_subtract, slot(inplace_subtract)},
      {Py_nb_inplace_multiply, slot(inplace_multiply)},
      {Py_nb_inplace_matrix_multiply, slot(inplace_matrix_multiply)},
      {Py_nb_inplace_true_divide, slot(inplace_true_divide)},
      {Py_nb_inplace_floor_divide, slot(inplace_floor_divide)},
      {Py_nb_inplace_remainder, slot(inplace_remainder)},
      {Py_nb_inplace_power, slot(inplace_power)},
      {Py_nb_inplace_lshift, slot(inplace_left_shift)},
      {Py_nb_inplace_rshift, slot(inplace_right_shift)},
      {Py_nb_inplace_and, slot(inplace_and)},
      {Py_nb_inplace_or, slot(inplace_or)},
      {Py_nb_inplace_xor, slot(inplace_xor)},
      {Py_nb_negative, slot(negative)},
      {Py_nb_positive, slot(positive)},
      {Py_nb_absolute, slot(absolute)},
      {Py_nb_invert, slot(invert)},
      {Py_nb_int, slot(to_int)},
      {Py_nb_float, slot(to_float)},
      {Py_nb_index, slot(to_index)},
  };
  slots->insert(slots->end(), std::begin(numbers), std::end(numbers));
}

}  // namespace theus::bindings
