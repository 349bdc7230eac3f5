#include "bindings/array_view.h"

#include <new>

#include "bindings/errors.h"

namespace theus::bindings {
namespace {

struct BlockViewObject {
  PyObject_HEAD AttachedPtr attached;
  std::uint32_t pin;
  const char* data;
  Py_ssize_t size;
};

PyTypeObject* block_view_type = nullptr;

void block_view_dealloc(PyObject* self) {
  auto* view = reinterpret_cast<BlockViewObject*>(self);
  PyTypeObject* type = Py_TYPE(self);
  view->attached->session.unpin_block(view->pin);
  view->attached.~AttachedPtr();
  PyObject_Free(self);
  Py_DECREF(type);
}

int block_view_get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  auto* view = reinterpret_cast<BlockViewObject*>(self);
  if (!view->attached->session.keeps_views()) {
    PyErr_SetString(PyExc_BufferError,
                    "this array belongs to the process that was forked, and could not be kept for "
                    "this one (no spare slot at the fork); read it again here");
    return -1;
  }
  return PyBuffer_FillInfo(buffer, self, const_cast<char*>(view->data), view->size, 1, flags);
}

}  // namespace

void make_block_view_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(block_view_dealloc)},
      {Py_bf_getbuffer, reinterpret_cast<void*>(block_view_get_buffer)},
      {Py_tp_doc,
       const_cast<char*>("Bytes of the shared state, read-only, kept while this lives.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {"theus._theus.BlockView", sizeof(BlockViewObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  block_view_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

Ref make_block_view(const AttachedPtr& attached, const worker::Value& value) {
  std::uint32_t pin = attached->session.pin_block(value.block);
  auto* view = PyObject_New(BlockViewObject, block_view_type);
  if (view == nullptr) {
    attached->session.unpin_block(pin);
    throw PythonError{};
  }
  new (&view->attached) AttachedPtr(attached);
  view->pin = pin;
  view->data = value.data;
  view->size = static_cast<Py_ssize_t>(value.size);
  return Ref::steal(reinterpret_cast<PyObject*>(view));
}

}  // namespace theus::bindings
