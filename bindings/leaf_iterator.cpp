#include "bindings/leaf_iterator.h"

#include "bindings/classify.h"
#include "bindings/errors.h"

namespace theus::bindings {
namespace {

PyTypeObject* iterator_type = nullptr;
Imported give_part{"theus._leaf_parts", "give"};

// Invariants: `over` and `inner` may be shared with other transactions. They are therefore not
// visited by the collector: gc.get_referents() must not reach them. They are plain data, or belong
// to the leaf, which the collector reaches through `proxy`.
struct LeafIteratorObject {
  PyObject_HEAD PyObject* proxy;  // strong; null when it is exhausted
  PyObject* over;                 // strong: the container that `inner` iterates over
  PyObject* inner;                // strong; null for a sequence, which is indexed
  Py_ssize_t index;               // items given out so far
  Py_ssize_t size;                // of a container that must not be resized meanwhile
};

LeafIteratorObject* as_iterator(PyObject* self) {
  return reinterpret_cast<LeafIteratorObject*>(self);
}

bool is_indexed(PyObject* container) {
  return PyList_CheckExact(container) || PyTuple_CheckExact(container) ||
         PyByteArray_CheckExact(container);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_iterator(self)->proxy);
  return 0;
}

int iterator_clear(PyObject* self) {
  Py_CLEAR(as_iterator(self)->proxy);
  Py_CLEAR(as_iterator(self)->over);
  Py_CLEAR(as_iterator(self)->inner);
  return 0;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  iterator_clear(self);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

// The next of a list, tuple or bytearray, looked up anew each time: it may grow meanwhile, and the
// first write puts a shadow in its place. Null at the end.
Ref next_indexed(LeafIteratorObject* iterator, PyObject* container) {
  if (iterator->index >= PySequence_Size(container)) return {};
  return Ref::check(PySequence_GetItem(container, iterator->index));
}

// The first write has put a shadow in the container's place. Keys and elements are the same, but a
// deque's may have been replaced.
void follow_shadow(LeafIteratorObject* iterator, PyObject* container) {
  Py_ssize_t size = PyObject_Size(container);
  if (size != iterator->size) {
    raise(PyExc_RuntimeError, "%.100s changed size during iteration", Py_TYPE(container)->tp_name);
  }
  if (PyDict_CheckExact(container) || PyAnySet_CheckExact(container)) return;
  Ref again = Ref::check(PyObject_GetIter(container));
  for (Py_ssize_t i = 0; i < iterator->index; ++i) Ref::check(PyIter_Next(again.get()));
  Py_XSETREF(iterator->inner, again.release());
  Py_XSETREF(iterator->over, Ref::borrow(container).release());
}

Ref next_item(LeafIteratorObject* iterator, PyObject* container) {
  if (iterator->inner == nullptr) return next_indexed(iterator, container);
  if (container != iterator->over) follow_shadow(iterator, container);
  Ref item = Ref::steal(PyIter_Next(iterator->inner));
  if (!item && PyErr_Occurred() != nullptr) throw PythonError{};
  return item;
}

PyObject* next(PyObject* self) {
  LeafIteratorObject* iterator = as_iterator(self);
  if (iterator->proxy == nullptr) return nullptr;
  return guarded([&]() -> PyObject* {
    Ref proxy = Ref::borrow(iterator->proxy);
    const ProxyObject* parts = as_proxy(proxy.get());
    if (parts->context == nullptr) raise(ErrorClass::kTheus, "this proxy is being collected");
    check_usable(parts->context, proxy.get());
    PyObject* over = leaf_object(parts);
    Ref item = next_item(iterator, over);
    if (!item) {
      iterator_clear(self);
      return nullptr;
    }
    Py_ssize_t index = iterator->index++;
    if (is_frozen(item.get())) return item.release();
    const bool indexed = !PyDict_CheckExact(over) && !PyAnySet_CheckExact(over);
    Ref key = indexed ? Ref::check(PyLong_FromSsize_t(index)) : Ref::borrow(Py_None);
    return call(give_part.get(), proxy.get(), reinterpret_cast<PyObject*>(parts->leaf), item.get(),
                key.get())
        .release();
  });
}

}  // namespace

void make_leaf_iterator_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(iterator_clear)},
      {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
      {Py_tp_iternext, reinterpret_cast<void*>(next)},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus._theus.LeafIterator", sizeof(LeafIteratorObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  iterator_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

Ref make_leaf_iterator(PyObject* proxy) {
  Ref over = Ref::borrow(leaf_object(as_proxy(proxy)));
  Ref inner;
  if (!is_indexed(over.get())) inner = Ref::check(PyObject_GetIter(over.get()));
  Py_ssize_t size = PyObject_Size(over.get());
  check(static_cast<int>(size < 0 ? -1 : 0));
  auto* iterator = PyObject_GC_New(LeafIteratorObject, iterator_type);
  if (iterator == nullptr) throw PythonError{};
  iterator->proxy = Ref::borrow(proxy).release();
  iterator->over = inner ? over.release() : nullptr;
  iterator->inner = inner.release();
  iterator->index = 0;
  iterator->size = size;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(iterator));
  return Ref::steal(reinterpret_cast<PyObject*>(iterator));
}

}  // namespace theus::bindings
