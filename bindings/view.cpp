#include "bindings/view.h"

#include <new>

#include "bindings/errors.h"
#include "bindings/free_list.h"
#include "bindings/node.h"

namespace theus::bindings {
namespace {

struct IteratorObject {
  PyObject_HEAD PyObject* owner;  // strong; null when it is exhausted
  IteratorMode mode;
  alignas(NodeIterator) unsigned char state[sizeof(NodeIterator)];

  NodeIterator* iterator() { return std::launder(reinterpret_cast<NodeIterator*>(state)); }
};

struct ViewObject {
  PyObject_HEAD PyObject* owner;  // strong
  IteratorMode mode;
};

PyTypeObject* iterator_type = nullptr;
PyTypeObject* view_types[3] = {};
FreeList<IteratorObject> free_iterators;

Imported view_operation{"theus._views", "operate"};
Imported view_compare{"theus._views", "compare"};
Imported view_repr{"theus._views", "represent"};

IteratorObject* as_iterator(PyObject* self) { return reinterpret_cast<IteratorObject*>(self); }
ViewObject* as_view(PyObject* self) { return reinterpret_cast<ViewObject*>(self); }

int iterator_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_iterator(self)->owner);
  return 0;
}

int iterator_clear(PyObject* self) {
  Py_CLEAR(as_iterator(self)->owner);
  return 0;
}

void iterator_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  iterator_clear(self);
  free_iterators.give(as_iterator(self));
}

PyObject* iterator_next(PyObject* self) {
  IteratorObject* iterator = as_iterator(self);
  if (iterator->owner == nullptr) return nullptr;
  return guarded([&]() -> PyObject* {
    Node node = node_of(iterator->owner);
    if (!iterator->iterator()->next(node)) {
      Py_CLEAR(iterator->owner);
      return nullptr;
    }
    Ref key = iterator->iterator()->key();
    if (iterator->mode == IteratorMode::kKeys) return key.release();
    Ref value = give_out(node, key.get(), iterator->iterator()->found(node));
    if (iterator->mode == IteratorMode::kValues) return value.release();
    return Ref::check(PyTuple_Pack(2, key.get(), value.get())).release();
  });
}

int view_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_view(self)->owner);
  return 0;
}

int view_clear(PyObject* self) {
  Py_CLEAR(as_view(self)->owner);
  return 0;
}

void view_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  view_clear(self);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

PyObject* view_iterate(PyObject* self) {
  return guarded(
      [&] { return make_node_iterator(as_view(self)->owner, as_view(self)->mode).release(); });
}

Py_ssize_t view_length(PyObject* self) {
  return guarded([&] { return size(node_of(as_view(self)->owner)); });
}

int view_contains(PyObject* self, PyObject* wanted) {
  return guarded([&]() -> int {
    ViewObject* view = as_view(self);
    Node node = node_of(view->owner);
    if (view->mode == IteratorMode::kKeys) return has_key(node, wanted) ? 1 : 0;
    if (view->mode == IteratorMode::kItems) {
      if (!PyTuple_Check(wanted) || PyTuple_GET_SIZE(wanted) != 2) return 0;
      Ref value = get_item(node, PyTuple_GET_ITEM(wanted, 0));
      if (!value) return 0;
      return PyObject_RichCompareBool(value.get(), PyTuple_GET_ITEM(wanted, 1), Py_EQ);
    }
    Ref values = Ref::check(PySequence_List(self));
    return PySequence_Contains(values.get(), wanted);
  });
}

PyObject* view_reversed(PyObject* self, PyObject*) {
  return guarded([&] {
    return make_node_iterator(as_view(self)->owner, as_view(self)->mode, worker::Order::kBackward)
        .release();
  });
}

PyObject* view_represent(PyObject* self) {
  return guarded([&] { return call(view_repr.get(), self).release(); });
}

PyObject* view_operate(const char* name, PyObject* left, PyObject* right) {
  return guarded([&]() -> PyObject* {
    PyObject* view = is_view(left) ? left : right;
    if (as_view(view)->mode == IteratorMode::kValues) {
      return Ref::borrow(Py_NotImplemented).release();
    }
    Ref operation = Ref::check(PyUnicode_InternFromString(name));
    return call(view_operation.get(), operation.get(), left, right).release();
  });
}
PyObject* view_and(PyObject* left, PyObject* right) { return view_operate("and_", left, right); }
PyObject* view_or(PyObject* left, PyObject* right) { return view_operate("or_", left, right); }
PyObject* view_xor(PyObject* left, PyObject* right) { return view_operate("xor", left, right); }
PyObject* view_subtract(PyObject* left, PyObject* right) {
  return view_operate("sub", left, right);
}

PyObject* view_rich_compare(PyObject* self, PyObject* other, int operation) {
  if (as_view(self)->mode == IteratorMode::kValues) {
    return Ref::borrow(Py_NotImplemented).release();
  }
  return guarded([&] {
    static constexpr const char* kNames[] = {"lt", "le", "eq", "ne", "gt", "ge"};
    Ref name = Ref::check(PyUnicode_InternFromString(kNames[operation]));
    return call(view_compare.get(), name.get(), self, other).release();
  });
}

PyObject* view_isdisjoint(PyObject* self, PyObject* other) {
  return guarded([&] {
    Ref operation = Ref::check(PyUnicode_InternFromString("isdisjoint"));
    return call(view_operation.get(), operation.get(), self, other).release();
  });
}

PyMethodDef view_methods[] = {
    {"__reversed__", view_reversed, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyMethodDef set_view_methods[] = {
    {"__reversed__", view_reversed, METH_NOARGS, nullptr},
    {"isdisjoint", view_isdisjoint, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyTypeObject* make_view_type(const char* name, PyMethodDef* methods) {
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(view_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(view_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(view_clear)},
      {Py_tp_iter, reinterpret_cast<void*>(view_iterate)},
      {Py_sq_length, reinterpret_cast<void*>(view_length)},
      {Py_sq_contains, reinterpret_cast<void*>(view_contains)},
      {Py_tp_repr, reinterpret_cast<void*>(view_represent)},
      {Py_tp_richcompare, reinterpret_cast<void*>(view_rich_compare)},
      {Py_tp_hash, reinterpret_cast<void*>(PyObject_HashNotImplemented)},
      {Py_nb_and, reinterpret_cast<void*>(view_and)},
      {Py_nb_or, reinterpret_cast<void*>(view_or)},
      {Py_nb_xor, reinterpret_cast<void*>(view_xor)},
      {Py_nb_subtract, reinterpret_cast<void*>(view_subtract)},
      {Py_tp_methods, methods},
      {0, nullptr},
  };
  PyType_Spec spec = {name, sizeof(ViewObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                      slots};
  return reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

}  // namespace

bool is_view(PyObject* object) {
  for (PyTypeObject* type : view_types) {
    if (Py_TYPE(object) == type) return true;
  }
  return false;
}

void make_view_types(PyObject* module) {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(iterator_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(iterator_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(iterator_clear)},
      {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
      {Py_tp_iternext, reinterpret_cast<void*>(iterator_next)},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus._theus.NodeIterator", sizeof(IteratorObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  iterator_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
  // PyType_FromSpec keeps a pointer to the name in Python 3.10, so these are literals.
  view_types[0] = make_view_type("theus._theus.KeysView", set_view_methods);
  view_types[1] = make_view_type("theus._theus.ValuesView", view_methods);
  view_types[2] = make_view_type("theus._theus.ItemsView", set_view_methods);
  const char* names[] = {"KeysView", "ValuesView", "ItemsView"};
  for (int i = 0; i < 3; ++i) {
    check(PyObject_SetAttrString(module, names[i], reinterpret_cast<PyObject*>(view_types[i])));
  }
}

Ref make_node_iterator(PyObject* owner, IteratorMode mode, worker::Order order) {
  NodeIterator state(node_of(owner), order);
  IteratorObject* iterator = free_iterators.take(iterator_type);
  new (iterator->state) NodeIterator(state);
  iterator->mode = mode;
  Py_INCREF(owner);
  iterator->owner = owner;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(iterator));
  return Ref::steal(reinterpret_cast<PyObject*>(iterator));
}

Ref make_view(PyObject* owner, IteratorMode mode) {
  node_of(owner);
  auto* view = PyObject_GC_New(ViewObject, view_types[static_cast<int>(mode)]);
  if (view == nullptr) throw PythonError{};
  Py_INCREF(owner);
  view->owner = owner;
  view->mode = mode;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(view));
  return Ref::steal(reinterpret_cast<PyObject*>(view));
}

Ref node_directory(PyObject* owner) {
  constexpr Py_ssize_t kNamesListed = 1000;
  Ref names = Ref::check(PyObject_Dir(reinterpret_cast<PyObject*>(Py_TYPE(owner))));
  Ref keys = peek_keys(node_of(owner), kNamesListed);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(keys.get()); ++i) {
    PyObject* key = PyList_GET_ITEM(keys.get(), i);
    if (!PyUnicode_CheckExact(key) || PyUnicode_IsIdentifier(key) != 1) continue;
    check(PyList_Append(names.get(), key));
  }
  return names;
}

}  // namespace theus::bindings
