#include "bindings/classify.h"

#include <cstring>
#include <unordered_set>

#include "bindings/errors.h"

namespace theus::bindings {
namespace {

constexpr int kDepthMax = 100;  // deeper than this is treated as an unknown object
constexpr Py_ssize_t kTypesRememberedMax = 4096;

// How values of one type are judged; theus/_frozen.py describes a type once.
enum TypeCode : long {
  kOpaque = 0,
  kImmutable = 1,
  kTupleLike = 2,
  kFields = 3,
  kByConvention = 4,
};

Imported describe_type{"theus._frozen", "describe_type"};
Imported frozen_fields{"theus._frozen", "frozen_fields"};
Imported deque_type{"collections", "deque"};

long type_code(PyTypeObject* type) {
  static PyObject* remembered = PyDict_New();
  if (remembered == nullptr) throw PythonError{};
  auto* key = reinterpret_cast<PyObject*>(type);
  PyObject* known = PyDict_GetItemWithError(remembered, key);
  if (known != nullptr) return PyLong_AsLong(known);
  if (PyErr_Occurred() != nullptr) throw PythonError{};
  Ref code = call(describe_type.get(), key);
  if (PyDict_GET_SIZE(remembered) >= kTypesRememberedMax) PyDict_Clear(remembered);
  check(PyDict_SetItem(remembered, key, code.get()));
  long result = PyLong_AsLong(code.get());
  if (result == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  return result;
}

class Judge {
 public:
  Shape judge(PyObject* value, int depth) {
    PyTypeObject* type = Py_TYPE(value);
    if (value == Py_None || type == &PyLong_Type || type == &PyUnicode_Type ||
        type == &PyFloat_Type || type == &PyBool_Type || type == &PyBytes_Type ||
        type == &PyComplex_Type) {
      return Shape::kFrozen;
    }
    if (depth > kDepthMax) return Shape::kObject;
    if (type == &PyList_Type || type == &PyDict_Type || type == &PyTuple_Type) {
      if (!seen_.insert(value).second) return Shape::kKnown;
      return judge_container(value, type, depth);
    }
    if (type == &PyByteArray_Type) return Shape::kFlat;
    if (type == &PyFrozenSet_Type) return judge_elements(value, Shape::kFrozen, depth);
    if (type == &PySet_Type || reinterpret_cast<PyObject*>(type) == deque_type.get()) {
      if (!seen_.insert(value).second) return Shape::kKnown;
      return judge_elements(value, Shape::kFlat, depth);
    }
    if (is_array(value)) {
      may_be_shared_ = false;  // it has views, which could not be told to move to a copy
      return judge_array(value);
    }
    switch (type_code(type)) {
      case kImmutable:
        return has_mutable_part(value, depth) ? Shape::kObject : Shape::kFrozen;
      case kByConvention:
        may_be_shared_ = false;
        return Shape::kFrozen;
      case kTupleLike:
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
          if (judge(PyTuple_GET_ITEM(value, i), depth + 1) != Shape::kFrozen) return Shape::kObject;
        }
        return Shape::kFrozen;
      case kFields: {
        may_be_shared_ = false;
        Ref fields = call(frozen_fields.get(), value);
        if (fields.get() == Py_None) return Shape::kObject;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields.get()); ++i) {
          if (judge(PyTuple_GET_ITEM(fields.get(), i), depth + 1) != Shape::kFrozen) {
            return Shape::kObject;
          }
        }
        return Shape::kFrozen;
      }
      default:
        return Shape::kObject;
    }
  }

  bool may_be_shared() const { return may_be_shared_; }

 private:
  // [].append is a bound method of a list, and a slice may have any objects for bounds.
  bool has_mutable_part(PyObject* value, int depth) {
    if (PyCFunction_Check(value)) {
      PyObject* self = PyCFunction_GET_SELF(value);
      return self != nullptr && !PyModule_Check(self) && !PyType_Check(self);
    }
    if (!PySlice_Check(value)) return false;
    const auto* slice = reinterpret_cast<const PySliceObject*>(value);
    for (PyObject* bound : {slice->start, slice->stop, slice->step}) {
      if (judge(bound, depth + 1) != Shape::kFrozen) return true;
    }
    return false;
  }

  // The shape of a container whose shape is `all_frozen` when every element is frozen.
  static Shape with_element(Shape container, Shape element) {
    if (element == Shape::kObject || container == Shape::kObject) return Shape::kObject;
    return element == Shape::kFrozen ? container : Shape::kKnown;
  }

  Shape judge_container(PyObject* value, PyTypeObject* type, int depth) {
    if (type == &PyTuple_Type) {
      Shape shape = Shape::kFrozen;
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
        shape = with_element(shape, judge(PyTuple_GET_ITEM(value, i), depth + 1));
      }
      return shape;
    }
    Shape shape = Shape::kFlat;
    if (type == &PyList_Type) {
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
        shape = with_element(shape, judge(PyList_GET_ITEM(value, i), depth + 1));
      }
      return shape;
    }
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *item = nullptr;
    while (PyDict_Next(value, &position, &key, &item)) {
      if (judge(key, depth + 1) != Shape::kFrozen) return Shape::kObject;
      shape = with_element(shape, judge(item, depth + 1));
    }
    return shape;
  }

  Shape judge_elements(PyObject* value, Shape all_frozen, int depth) {
    Shape shape = all_frozen;
    Ref iterator = Ref::check(PyObject_GetIter(value));
    while (Ref item = Ref::steal(PyIter_Next(iterator.get()))) {
      shape = with_element(shape, judge(item.get(), depth + 1));
    }
    if (PyErr_Occurred() != nullptr) throw PythonError{};
    // A set is looked up by its elements' own code; only frozen ones are known to be harmless.
    bool is_set = PyAnySet_Check(value);
    return is_set && shape != all_frozen ? Shape::kObject : shape;
  }

  static Shape judge_array(PyObject* value) {
    Ref dtype = Ref::check(PyObject_GetAttrString(value, "dtype"));
    Ref has_object = Ref::check(PyObject_GetAttrString(dtype.get(), "hasobject"));
    return PyObject_IsTrue(has_object.get()) == 1 ? Shape::kObject : Shape::kKnown;
  }

  std::unordered_set<PyObject*> seen_;  // containers met, for cycles and shared references
  bool may_be_shared_ = true;
};

}  // namespace

Shape classify(PyObject* value, bool* may_be_shared) {
  Judge judge;
  const Shape shape = judge.judge(value, 0);
  if (may_be_shared != nullptr) *may_be_shared = judge.may_be_shared();
  return shape;
}

bool is_array(PyObject* value) {
  // The name is compared first: it costs less than asking for the module, which may be absent.
  if (std::strcmp(Py_TYPE(value)->tp_name, "numpy.ndarray") != 0) return false;
  static Imported array_type{"numpy", "ndarray"};
  return reinterpret_cast<PyObject*>(Py_TYPE(value)) == array_type.get();
}

}  // namespace theus::bindings
