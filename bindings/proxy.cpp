#include "bindings/proxy.h"

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bindings/codec.h"
#include "bindings/errors.h"
#include "bindings/free_list.h"
#include "bindings/leaf_iterator.h"
#include "bindings/paths.h"
#include "bindings/proxy_numbers.h"
#include "bindings/values.h"
#include "bindings/view.h"

namespace theus::bindings {

PyTypeObject* proxy_type = nullptr;
PyTypeObject* callable_proxy_type = nullptr;

namespace {

FreeList<ProxyObject, 256> free_proxies;

constexpr std::size_t kOperations = static_cast<std::size_t>(LeafOperation::kCount);
std::array<Imported, kOperations> operations = {{
    {"theus._leaf", "get_attribute"},
    {"theus._leaf", "set_attribute"},
    {"theus._leaf", "delete_attribute"},
    {"theus._leaf", "get_item"},
    {"theus._leaf", "set_item"},
    {"theus._leaf", "delete_item"},
    {"theus._leaf", "length"},
    {"theus._leaf", "contains"},
    {"theus._leaf", "iterate"},
    {"theus._leaf", "iterate_reversed"},
    {"theus._leaf", "truth"},
    {"theus._leaf_operators", "compare"},
    {"theus._leaf_operators", "binary"},
    {"theus._leaf_operators", "inplace"},
    {"theus._leaf_operators", "unary"},
    {"theus._leaf_operators", "convert"},
    {"theus._leaf_call", "call"},
    {"theus._leaf_operators", "string"},
    {"theus._leaf_operators", "formatted"},
    {"theus._leaf", "directory"},
    {"theus._leaf", "plain_copy"},
    {"theus._leaf", "as_array"},
}};

Imported node_repr{"theus._repr", "node_repr"};
Imported leaf_repr{"theus._repr", "leaf_repr"};
Imported ended_repr{"theus._repr", "ended_repr"};
Imported array_function{"theus._array", "array_function"};
Imported array_ufunc{"theus._array", "array_ufunc"};
Imported private_copy{"theus._leaf_parts", "private_copy"};
Imported torch_function{"theus._torch", "torch_function"};
Imported as_numpy{"numpy", "asarray"};
Imported array_type{"numpy", "ndarray"};
Imported array_part{"theus._array", "ArrayPart"};
Imported row_part{"theus._array", "RowPart"};
Imported void_type{"numpy", "void"};

ProxyObject* new_proxy(ContextObject* context, PyObject* parent, PyObject* key,
                       PyTypeObject* type) {
  ProxyObject* proxy = free_proxies.take(type);
  proxy->context = context;
  Py_INCREF(parent);
  proxy->parent = parent;
  Py_XINCREF(key);
  proxy->key = key;
  return proxy;
}

Ref track(ProxyObject* proxy) {
  PyObject_GC_Track(reinterpret_cast<PyObject*>(proxy));
  return Ref::steal(reinterpret_cast<PyObject*>(proxy));
}

PyObject* target_or_none(const ProxyObject* proxy) {
  return proxy->target != nullptr ? proxy->target : Py_None;
}

// Calls the function for a leaf proxy, with the proxy, its leaf and its target in front.
template <class... Arguments>
Ref on_leaf(LeafOperation which, PyObject* self, Arguments... arguments) {
  const ProxyObject* proxy = as_proxy(self);
  if (proxy->context == nullptr) raise(ErrorClass::kTheus, "this proxy is being collected");
  check_usable(proxy->context, self);
  return call(leaf_operation(which), self, reinterpret_cast<PyObject*>(proxy->leaf),
              target_or_none(proxy), arguments...);
}

bool is_array_part(PyObject* target) {
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(target));
  return type == array_part.get() || type == row_part.get();
}

bool is_leaf(PyObject* self) { return as_proxy(self)->leaf != nullptr; }

bool is_dunder(PyObject* name) {
  Py_ssize_t size = PyUnicode_GET_LENGTH(name);
  return size > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_' &&
         PyUnicode_READ_CHAR(name, size - 1) == '_';
}

// ------------------------------------------------------------------------------ life

int proxy_traverse(PyObject* self, visitproc visit, void* arg) {
  const ProxyObject* proxy = as_proxy(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(proxy->parent);
  Py_VISIT(proxy->key);
  Py_VISIT(reinterpret_cast<PyObject*>(proxy->leaf));
  // A part of a leaf without a shadow is shared with other transactions, as leaf_traverse says.
  if (proxy->leaf != nullptr && proxy->leaf->shadow != nullptr) Py_VISIT(proxy->target);
  return 0;
}

int proxy_clear(PyObject* self) {
  ProxyObject* proxy = as_proxy(self);
  proxy->context = nullptr;
  if (proxy->listed) unlist_part(proxy);
  Py_CLEAR(proxy->parent);
  Py_CLEAR(proxy->key);
  Py_CLEAR(proxy->leaf);
  Py_CLEAR(proxy->target);
  return 0;
}

void proxy_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  proxy_clear(self);
  free_proxies.give(as_proxy(self));
}

// ------------------------------------------------------------------------------ slots

// The built-in container that a leaf proxy stands for, if it is of such a class exactly: how long
// it is, and what is in it, is told without running any other code. Borrowed; null otherwise.
PyObject* plain_container(PyObject* self) {
  const ProxyObject* proxy = as_proxy(self);
  if (proxy->context == nullptr) return nullptr;
  check_usable(proxy->context, self);
  PyObject* object = leaf_object(proxy);
  return object != nullptr && is_plain_container(object) ? object : nullptr;
}

// What is at `key` of a list, tuple or dict, if it can be given out as it is. Borrowed; null
// otherwise, and then theus/_leaf.py decides.
PyObject* frozen_item(PyObject* self, PyObject* key) {
  PyObject* container = plain_container(self);
  if (container == nullptr) return nullptr;
  PyObject* item = nullptr;
  if (PyDict_CheckExact(container)) {
    if (!PyUnicode_CheckExact(key) && !PyLong_CheckExact(key)) return nullptr;
    item = PyDict_GetItemWithError(container, key);
    if (item == nullptr && PyErr_Occurred() != nullptr) throw PythonError{};
  } else if (PyLong_CheckExact(key) &&
             (PyList_CheckExact(container) || PyTuple_CheckExact(container))) {
    Py_ssize_t index = PyLong_AsSsize_t(key);
    if (index == -1 && PyErr_Occurred() != nullptr) PyErr_Clear();
    Py_ssize_t size = PySequence_Fast_GET_SIZE(container);
    if (index < 0) index += size;
    if (index >= 0 && index < size) item = PySequence_Fast_GET_ITEM(container, index);
  }
  return item != nullptr && is_frozen(item) ? item : nullptr;
}

PyObject* get_attribute(PyObject* self, PyObject* name) {
  if (!is_leaf(self)) return node_get_attribute(self, name);
  return guarded([&]() -> PyObject* {
    if (PyUnicode_Check(name) && is_dunder(name)) return PyObject_GenericGetAttr(self, name);
    return on_leaf(LeafOperation::kGetAttribute, self, name).release();
  });
}

int set_attribute(PyObject* self, PyObject* name, PyObject* value) {
  if (!is_leaf(self)) return node_set_attribute(self, name, value);
  return guarded([&] {
    if (value == nullptr) {
      on_leaf(LeafOperation::kDeleteAttribute, self, name);
    } else {
      on_leaf(LeafOperation::kSetAttribute, self, name, value);
    }
    return 0;
  });
}

PyObject* subscript(PyObject* self, PyObject* key) {
  if (!is_leaf(self)) return node_subscript(self, key);
  return guarded([&] {
    if (PyObject* item = frozen_item(self, key)) return Ref::borrow(item).release();
    return on_leaf(LeafOperation::kGetItem, self, key).release();
  });
}

int assign(PyObject* self, PyObject* key, PyObject* value) {
  if (!is_leaf(self)) return node_assign(self, key, value);
  return guarded([&] {
    if (value == nullptr) {
      on_leaf(LeafOperation::kDeleteItem, self, key);
    } else {
      on_leaf(LeafOperation::kSetItem, self, key, value);
    }
    return 0;
  });
}

// For C code that indexes by position (bisect).
PyObject* position(PyObject* self, Py_ssize_t index) {
  return guarded([&]() -> PyObject* {
    if (!is_leaf(self)) raise(PyExc_TypeError, "a mapping node has no positions");
    Ref number = Ref::check(PyLong_FromSsize_t(index));
    return on_leaf(LeafOperation::kGetItem, self, number.get()).release();
  });
}

Py_ssize_t length(PyObject* self) {
  if (!is_leaf(self)) return node_length(self);
  return guarded([&]() -> Py_ssize_t {
    if (PyObject* container = plain_container(self)) return PyObject_Size(container);
    Ref result = on_leaf(LeafOperation::kLength, self);
    Py_ssize_t size = PyLong_AsSsize_t(result.get());
    if (size == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
    return size;
  });
}

int contains(PyObject* self, PyObject* key) {
  if (!is_leaf(self)) return node_contains(self, key);
  return guarded([&] {
    Ref result = on_leaf(LeafOperation::kContains, self, key);
    return PyObject_IsTrue(result.get());
  });
}

int truth(PyObject* self) {
  return guarded([&] {
    if (!is_leaf(self)) return is_empty(node_of(self)) ? 0 : 1;
    if (PyObject* container = plain_container(self)) return PyObject_IsTrue(container);
    Ref result = on_leaf(LeafOperation::kTruth, self);
    return PyObject_IsTrue(result.get());
  });
}

PyObject* iterate(PyObject* self) {
  return guarded([&] {
    if (!is_leaf(self)) return make_node_iterator(self, IteratorMode::kKeys).release();
    if (plain_container(self) != nullptr) return make_leaf_iterator(self).release();
    return on_leaf(LeafOperation::kIterate, self).release();
  });
}

PyObject* iterate_reversed(PyObject* self, PyObject*) {
  return guarded([&] {
    if (!is_leaf(self)) {
      return make_node_iterator(self, IteratorMode::kKeys, worker::Order::kBackward).release();
    }
    return on_leaf(LeafOperation::kReversed, self).release();
  });
}

PyObject* compare(PyObject* self, PyObject* other, int operation) {
  if (!is_leaf(self)) return node_compare(self, other, operation);
  return guarded([&] {
    static constexpr const char* kNames[] = {"lt", "le", "eq", "ne", "gt", "ge"};
    Ref name = Ref::check(PyUnicode_InternFromString(kNames[operation]));
    return on_leaf(LeafOperation::kCompare, self, other, name.get()).release();
  });
}

PyObject* call_proxy(PyObject* self, PyObject* arguments, PyObject* names) {
  return guarded([&] {
    PyObject* named = names != nullptr ? names : Py_None;
    return on_leaf(LeafOperation::kCall, self, arguments, named).release();
  });
}

// ------------------------------------------------------------------------------ descriptions

PyObject* represent(PyObject* self) {
  return guarded([&]() -> PyObject* {
    const ProxyObject* proxy = as_proxy(self);
    if (proxy->context == nullptr) return PyUnicode_FromString("<SupervisorProxy>");
    Ref path = path_of(self);
    Ref result;
    try {
      check_usable(proxy->context, self);
      if (proxy->leaf == nullptr) {
        result = call(node_repr.get(), self, path.get());
      } else {
        result = call(leaf_repr.get(), self, reinterpret_cast<PyObject*>(proxy->leaf),
                      target_or_none(proxy), path.get());
      }
      return result.release();
    } catch (const PythonError&) {
      // repr is for logs and debuggers, which must not fail with what they look at.
      if (!PyErr_ExceptionMatches(PyExc_Exception)) throw;
      PyErr_Clear();
    } catch (const worker::Error&) {
    }
    return call(ended_repr.get(), path.get()).release();
  });
}

PyObject* string(PyObject* self) {
  const ProxyObject* proxy = as_proxy(self);
  if (proxy->leaf == nullptr || proxy->context == nullptr ||
      proxy->context->status != Status::kOpen) {
    return represent(self);
  }
  return guarded([&] { return on_leaf(LeafOperation::kString, self).release(); });
}

// PyTorch's C++ asks isinstance(), which __class__ answers, and then takes the object apart as if
// it were a tensor of its own: there the proxy has to say what it is.
bool is_taken_apart(PyTypeObject* type) {
  for (PyTypeObject* base = type; base != nullptr; base = base->tp_base) {
    if (std::strncmp(base->tp_name, "torch._C.", 9) == 0) return true;
  }
  return false;
}

PyObject* get_class(PyObject* self, void*) {
  return guarded([&]() -> PyObject* {
    const ProxyObject* proxy = as_proxy(self);
    PyTypeObject* type = Py_TYPE(self);
    if (proxy->leaf == nullptr) {
      type = proxy->context != nullptr ? &PyDict_Type : type;
    } else if (proxy->target != nullptr) {
      type = Py_TYPE(proxy->target);
      if (reinterpret_cast<PyObject*>(type) == array_part.get()) {
        type = reinterpret_cast<PyTypeObject*>(array_type.get());
      } else if (reinterpret_cast<PyObject*>(type) == row_part.get()) {
        type = reinterpret_cast<PyTypeObject*>(void_type.get());
      }
    } else if (PyObject* content = leaf_content(proxy->leaf)) {
      type = Py_TYPE(content);
    }
    if (is_taken_apart(type)) type = Py_TYPE(self);
    return Ref::borrow(reinterpret_cast<PyObject*>(type)).release();
  });
}

PyObject* directory(PyObject* self, PyObject*) {
  return guarded([&] {
    if (is_leaf(self)) return on_leaf(LeafOperation::kDirectory, self).release();
    return node_directory(self).release();
  });
}

// ------------------------------------------------------------------------------ copies

PyObject* copy_plain(PyObject* self, PyObject*) {
  return guarded([&] { return call(private_copy.get(), plain(self).get()).release(); });
}

// The parts of a leaf that a value on its way into it refers to, while that is copied.
struct Adopting {
  const LeafObject* leaf;
  Ref parts;  // list
};
thread_local Adopting* adopting = nullptr;

// A pickle's way to one of them; null: `self` is none.
Ref reduce_to_part(PyObject* self) {
  const ProxyObject* proxy = as_proxy(self);
  if (adopting == nullptr || proxy->leaf == nullptr || proxy->leaf != adopting->leaf) return {};
  check_usable(proxy->context, self);
  PyObject* shadow = leaf_shadow(proxy->leaf);  // first: with it a part is another object
  PyObject* part = proxy->target != nullptr ? proxy->target : shadow;
  if (is_array_part(part) || (proxy->target == nullptr && is_array(part))) return {};
  static Imported give_adopted{"theus._theus", "adopted_part"};
  const Py_ssize_t number = PyList_GET_SIZE(adopting->parts.get());
  check(PyList_Append(adopting->parts.get(), part));
  return Ref::check(Py_BuildValue("(O(n))", give_adopted.get(), number));
}

// What the plain object says, so that a pickle of a proxy holds that object and no trace of Theus.
PyObject* reduce(PyObject* self, PyObject* protocol) {
  return guarded([&] {
    check_may_be_encoded(as_proxy(self)->context, self);
    if (Ref part = reduce_to_part(self)) return part.release();
    Ref object = plain(self);
    return Ref::check(PyObject_CallMethod(object.get(), "__reduce_ex__", "O", protocol)).release();
  });
}

PyObject* to_array(PyObject* self, PyObject* arguments, PyObject* names) {
  return guarded([&] {
    PyObject* dtype = Py_None;
    PyObject* copy = Py_None;
    static const char* keywords[] = {"dtype", "copy", nullptr};
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "|OO", const_cast<char**>(keywords), &dtype,
                                     &copy)) {
      throw PythonError{};
    }
    if (is_leaf(self)) return on_leaf(LeafOperation::kArray, self, dtype, copy).release();
    Ref object = plain(self);
    return call(as_numpy.get(), object.get(), dtype).release();
  });
}

PyObject* dispatch_ufunc(PyObject* self, PyObject* arguments, PyObject* names) {
  return guarded([&] {
    Ref all = Ref::check(PyTuple_New(PyTuple_GET_SIZE(arguments) + 1));
    PyTuple_SET_ITEM(all.get(), 0, Ref::borrow(self).release());
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); ++i) {
      PyTuple_SET_ITEM(all.get(), i + 1, Ref::borrow(PyTuple_GET_ITEM(arguments, i)).release());
    }
    return Ref::check(PyObject_Call(array_ufunc.get(), all.get(), names)).release();
  });
}

PyObject* dispatch_function(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 4) raise(PyExc_TypeError, "__array_function__ takes four arguments");
    return call(array_function.get(), self, arguments[0], arguments[1], arguments[2], arguments[3])
        .release();
  });
}

PyObject* format(PyObject* self, PyObject* specification) {
  return guarded([&] {
    // What str() says of a node, and of a proxy that has ended, can only be padded.
    Ref text;
    const ProxyObject* proxy = as_proxy(self);
    if (proxy->leaf != nullptr && proxy->context != nullptr &&
        proxy->context->status == Status::kOpen) {
      return on_leaf(LeafOperation::kFormat, self, specification).release();
    }
    text = Ref::check(represent(self));
    return Ref::check(PyObject_Format(text.get(), specification)).release();
  });
}

// For bytearrays, arrays and whatever else has one: the buffer of the plain object, read-only.
int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  view->obj = nullptr;
  return guarded([&] {
    const ProxyObject* proxy = as_proxy(self);
    PyObject* object = nullptr;
    if (proxy->leaf != nullptr && proxy->context != nullptr) {
      check_usable(proxy->context, self);
      object = proxy->target != nullptr ? proxy->target : leaf_content(proxy->leaf);
    }
    bool part = object != nullptr && is_array_part(object);
    if (object == nullptr || !(part || PyObject_CheckBuffer(object))) {
      raise(PyExc_TypeError, "a bytes-like object is required, and %.100s is none",
            object == nullptr ? "a mapping" : Py_TYPE(object)->tp_name);
    }
    if ((flags & PyBUF_WRITABLE) == PyBUF_WRITABLE) {
      Ref path = path_of(self);
      raise(PyExc_BufferError,
            "the buffer of %U is read-only; ctx.transaction.get_shadow(...) gives an object whose "
            "changes are found at commit",
            path_text(path.get()).get());
    }
    Ref copy = plain(self);
    check(PyObject_GetBuffer(copy.get(), view, flags));
    view->readonly = 1;
    return 0;
  });
}

PyObject* dispatch_torch(PyObject*, PyObject* arguments, PyObject* names) {
  return guarded(
      [&] { return Ref::check(PyObject_Call(torch_function.get(), arguments, names)).release(); });
}

PyObject* to_bytes(PyObject* self, PyObject*) {
  return guarded([&] {
    Ref object = plain(self);
    return Ref::check(PyObject_Bytes(object.get())).release();
  });
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
PyCFunction named(PyObject* (*function)(PyObject*, PyObject*, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef common_methods[] = {
    {"__reversed__", iterate_reversed, METH_NOARGS, nullptr},
    {"__dir__", directory, METH_NOARGS, nullptr},
    {"__copy__", copy_plain, METH_NOARGS, "Returns a plain object."},
    {"__deepcopy__", copy_plain, METH_O, "Returns a plain object."},
    {"__reduce_ex__", reduce, METH_O, "Pickles the plain object."},
    {"__array__", named(to_array), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"__array_ufunc__", named(dispatch_ufunc), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"__array_function__", fast(dispatch_function), METH_FASTCALL, nullptr},
    {"__torch_function__", named(dispatch_torch), METH_CLASS | METH_VARARGS | METH_KEYWORDS,
     nullptr},
    {"__bytes__", to_bytes, METH_NOARGS, nullptr},
    {"__format__", format, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

// `p.__init__(...)` and the like begin the object anew, and not the proxy, which has one of its
// own. And what __dict__ of the object has is a part of it.
PyObject* get_of_object(PyObject* self, void* attribute) {
  return guarded([&] {
    const ProxyObject* proxy = as_proxy(self);
    const Ref name = Ref::check(PyUnicode_InternFromString(static_cast<const char*>(attribute)));
    if (proxy->leaf == nullptr) {
      PyErr_SetObject(PyExc_AttributeError, name.get());
      throw PythonError{};
    }
    check_usable(proxy->context, self);
    return call(leaf_operation(LeafOperation::kGetAttribute), self,
                reinterpret_cast<PyObject*>(proxy->leaf),
                proxy->target != nullptr ? proxy->target : Py_None, name.get())
        .release();
  });
}

PyGetSetDef attributes[] = {
    {"__init__", get_of_object, nullptr, nullptr, const_cast<char*>("__init__")},
    {"__dict__", get_of_object, nullptr, nullptr, const_cast<char*>("__dict__")},
    {"__class__", get_class, nullptr, "The class of what the proxy stands for.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

// dict's methods for nodes and what both kinds have, in one table.
PyMethodDef* all_methods() {
  static std::vector<PyMethodDef> all;
  for (PyMethodDef* method = node_methods; method->ml_name != nullptr; ++method) {
    all.push_back(*method);
  }
  for (const PyMethodDef& method : common_methods) all.push_back(method);
  return all.data();
}

}  // namespace

Ref copy_into(LeafObject* leaf, PyObject* value) {
  Adopting here{leaf, Ref::check(PyList_New(0))};
  struct Scope {
    explicit Scope(Adopting* to) : before(std::exchange(adopting, to)) {}
    ~Scope() { adopting = before; }
    Adopting* before;
  } const scope(&here);
  const LeafEncoding encoding(value);
  std::string bytes(encoding.size(), '\0');
  encoding.write(bytes.data());
  return decode_private(bytes, leaf_path(leaf).get());
}

Ref adopted_part(Py_ssize_t number) {
  const bool known =
      adopting != nullptr && number >= 0 && number < PyList_GET_SIZE(adopting->parts.get());
  if (!known) raise(PyExc_ValueError, "a part of another leaf, and of another moment");
  return Ref::borrow(PyList_GET_ITEM(adopting->parts.get(), number));
}

PyObject* leaf_operation(LeafOperation which) {
  return operations[static_cast<std::size_t>(which)].get();
}

void make_proxy_type() {
  std::vector<PyType_Slot> slots = {
      {Py_tp_dealloc, reinterpret_cast<void*>(proxy_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(proxy_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(proxy_clear)},
      {Py_tp_getattro, reinterpret_cast<void*>(get_attribute)},
      {Py_tp_setattro, reinterpret_cast<void*>(set_attribute)},
      {Py_mp_subscript, reinterpret_cast<void*>(subscript)},
      {Py_mp_ass_subscript, reinterpret_cast<void*>(assign)},
      {Py_mp_length, reinterpret_cast<void*>(length)},
      {Py_sq_length, reinterpret_cast<void*>(length)},
      {Py_sq_item, reinterpret_cast<void*>(position)},
      {Py_sq_contains, reinterpret_cast<void*>(contains)},
      {Py_nb_bool, reinterpret_cast<void*>(truth)},
      {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
      {Py_tp_iter, reinterpret_cast<void*>(iterate)},
      {Py_tp_richcompare, reinterpret_cast<void*>(compare)},
      {Py_tp_hash, reinterpret_cast<void*>(PyObject_HashNotImplemented)},
      {Py_tp_repr, reinterpret_cast<void*>(represent)},
      {Py_tp_str, reinterpret_cast<void*>(string)},
      {Py_tp_methods, all_methods()},
      {Py_tp_getset, attributes},
      {Py_tp_doc, const_cast<char*>(
                      "Stands for a part of the state: a mapping node, a mutable leaf, or a part "
                      "of one.\n\nBelongs to the thread of its transaction and ends with it; "
                      "theus.plain(p) gives an ordinary object that stays.")},
  };
  add_number_slots(&slots);
  slots.push_back({0, nullptr});
  static PyType_Spec spec = {"theus.SupervisorProxy", sizeof(ProxyObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
                                 Py_TPFLAGS_DISALLOW_INSTANTIATION,
                             nullptr};
  spec.slots = slots.data();
  proxy_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());

  static PyType_Slot callable_slots[] = {
      {Py_tp_call, reinterpret_cast<void*>(call_proxy)},
      {Py_tp_dealloc, reinterpret_cast<void*>(proxy_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(proxy_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(proxy_clear)},
      {Py_tp_hash, reinterpret_cast<void*>(PyObject_HashNotImplemented)},
      {Py_tp_richcompare, reinterpret_cast<void*>(compare)},
      {0, nullptr},
  };
  static PyType_Spec callable_spec = {
      "theus.SupervisorProxy", sizeof(ProxyObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, callable_slots};
  callable_proxy_type = reinterpret_cast<PyTypeObject*>(
      Ref::check(PyType_FromSpecWithBases(&callable_spec, reinterpret_cast<PyObject*>(proxy_type)))
          .release());
}

Ref make_node_proxy(const Node& parent, PyObject* key, worker::Mapping* mapping,
                    std::uint64_t node) {
  ProxyObject* proxy = new_proxy(parent.context, parent.owner, key, proxy_type);
  proxy->mapping = mapping;
  proxy->node = node;
  return track(proxy);
}

Ref make_root_proxy(ContextObject* context) {
  ProxyObject* proxy =
      new_proxy(context, reinterpret_cast<PyObject*>(context), nullptr, proxy_type);
  proxy->mapping = context->root;
  proxy->node = context->root_node;
  return track(proxy);
}

Ref make_leaf_proxy(LeafObject* leaf, PyObject* parent, PyObject* key, PyObject* target) {
  PyObject* stands_for = target != nullptr ? target : leaf_content(leaf);
  bool callable = stands_for != nullptr && PyCallable_Check(stands_for) == 1;
  ProxyObject* proxy =
      new_proxy(leaf->context, parent, key, callable ? callable_proxy_type : proxy_type);
  Py_INCREF(leaf);
  proxy->leaf = leaf;
  Py_XINCREF(target);
  proxy->target = target;
  list_part(leaf, proxy);
  return track(proxy);
}

}  // namespace theus::bindings
