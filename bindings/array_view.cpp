#include "bindings/array_view.h"

#include <map>
#include <memory>
#include <new>

#include "bindings/errors.h"
#include "shm/layout.h"
#include "worker/private_view.h"

namespace theus::bindings {
namespace {

// Mapping costs some microseconds, and a page fault for each page that is looked at.
constexpr std::size_t kPrivateAbove = 64 << 10;
// Beyond it values are copied: the other pins are for views that cannot be.
constexpr std::size_t kPrivateMax = shm::kBlockPinsPerDesk / 2;

struct BlockViewObject {
  PyObject_HEAD AttachedPtr attached;  // destroyed last
  worker::Value value;
  std::uint32_t pin;  // without a private view
  // What pinned the block when this was made, where no snapshot is certain to; or null.
  PyObject* base;
  std::unique_ptr<worker::PrivateView> private_view;
};

PyTypeObject* block_view_type = nullptr;

// The private views of this process by their first byte; the GIL.
std::map<const char*, const worker::PrivateView*>& private_views() {
  static auto* views = new std::map<const char*, const worker::PrivateView*>;
  return *views;
}

BlockViewObject* as_view(PyObject* object) { return reinterpret_cast<BlockViewObject*>(object); }

void block_view_dealloc(PyObject* self) {
  BlockViewObject* view = as_view(self);
  PyTypeObject* type = Py_TYPE(self);
  if (view->private_view) {
    private_views().erase(view->private_view->data());
  } else {
    view->attached->session.unpin_block(view->pin);
  }
  view->private_view.~unique_ptr();
  Py_XDECREF(view->base);
  view->attached.~AttachedPtr();
  PyObject_Free(self);
  Py_DECREF(type);
}

int block_view_get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  BlockViewObject* view = as_view(self);
  if (!view->attached->session.keeps_views()) {
    PyErr_SetString(PyExc_BufferError,
                    "this array belongs to the process that was forked, and could not be kept for "
                    "this one (no spare slot at the fork); read it again here");
    return -1;
  }
  const bool read_only = view->private_view == nullptr;
  char* data = read_only ? const_cast<char*>(view->value.data) : view->private_view->data();
  return PyBuffer_FillInfo(buffer, self, data, static_cast<Py_ssize_t>(view->value.size),
                           read_only ? 1 : 0, flags);
}

BlockViewObject* new_view(const AttachedPtr& attached, const worker::Value& value) {
  auto* view = PyObject_New(BlockViewObject, block_view_type);
  if (view == nullptr) throw PythonError{};
  new (&view->attached) AttachedPtr(attached);
  new (&view->value) worker::Value(value);
  new (&view->private_view) std::unique_ptr<worker::PrivateView>;
  view->base = nullptr;
  return view;
}

}  // namespace

void make_block_view_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(block_view_dealloc)},
      {Py_bf_getbuffer, reinterpret_cast<void*>(block_view_get_buffer)},
      {Py_tp_doc, const_cast<char*>("Bytes of the shared state, kept while this lives.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {"theus._theus.BlockView", sizeof(BlockViewObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  block_view_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

Ref make_block_view(const AttachedPtr& attached, const worker::Value& value) {
  const std::uint32_t pin = attached->session.pin_block(value.block);
  try {
    BlockViewObject* view = new_view(attached, value);
    view->pin = pin;
    return Ref::steal(reinterpret_cast<PyObject*>(view));
  } catch (...) {
    attached->session.unpin_block(pin);
    throw;
  }
}

Ref make_private_view(const AttachedPtr& attached, const worker::Value& value) {
  if (value.record == 0 || value.block == 0 || value.size < kPrivateAbove ||
      private_views().size() >= kPrivateMax) {
    return {};
  }
  std::unique_ptr<worker::PrivateView> made;
  try {
    made = std::make_unique<worker::PrivateView>(attached->session, value);
  } catch (const worker::Error&) {
    return {};  // no pin or no mapping left, which a copy does without
  }
  const worker::PrivateView* listed = made.get();
  BlockViewObject* view = new_view(attached, value);
  view->private_view = std::move(made);
  Ref result = Ref::steal(reinterpret_cast<PyObject*>(view));
  private_views().emplace(listed->data(), listed);
  return result;
}

Ref private_view_of(PyObject* memoryview) {
  const Py_buffer* part = PyMemoryView_GET_BUFFER(memoryview);
  if (part->obj == nullptr || Py_TYPE(part->obj) != block_view_type) return {};
  BlockViewObject* shared = as_view(part->obj);
  if (shared->private_view != nullptr) return {};
  Ref whole = make_private_view(shared->attached, shared->value);
  if (!whole) return {};
  // Unpickling may have let another thread close the snapshot: this block pin is what there is, and
  // a pin that is moved may be missed by whoever looks at both places.
  as_view(whole.get())->base = Ref::borrow(part->obj).release();
  const auto start = static_cast<const char*>(part->buf) - shared->value.data;
  Ref all = Ref::check(PyMemoryView_FromObject(whole.get()));
  return Ref::check(PySequence_GetSlice(all.get(), start, start + part->len));
}

const void* unchanged_original(const void* bytes, std::size_t size) {
  const char* start = static_cast<const char*>(bytes);
  auto next = private_views().upper_bound(start);
  if (next == private_views().begin()) return nullptr;
  const worker::PrivateView& view = *std::prev(next)->second;
  const auto offset = static_cast<std::size_t>(start - view.data());
  return view.unchanged(offset, size) ? view.original() + offset : nullptr;
}

}  // namespace theus::bindings
