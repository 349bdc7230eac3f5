// From proxies to plain objects.
#include <unordered_set>

#include "bindings/errors.h"
#include "bindings/proxy.h"
#include "bindings/view.h"

namespace theus::bindings {
namespace {

Imported state_type{"theus._state", "State"};
Imported leaf_view_types{"theus._leaf_views", "VIEW_TYPES"};

// keys(), values(), items() of a dict inside of a leaf.
bool is_view_of_leaf(PyTypeObject* type) {
  PyObject* types = leaf_view_types.get();
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); ++i) {
    if (PyTuple_GET_ITEM(types, i) == reinterpret_cast<PyObject*>(type)) return true;
  }
  return false;
}

Ref plain_leaf(PyObject* object) {
  const ProxyObject* proxy = as_proxy(object);
  if (proxy->context == nullptr) raise(ErrorClass::kTheus, "this proxy is being collected");
  check_usable(proxy->context, object);
  return call(leaf_operation(LeafOperation::kPlain), object,
              reinterpret_cast<PyObject*>(proxy->leaf),
              proxy->target != nullptr ? proxy->target : Py_None);
}

// Rebuilds exact containers that hold proxies; everything else stays what it is.
class Plainer {
 public:
  Ref operator()(PyObject* object) {
    if (is_proxy(object)) {
      return as_proxy(object)->leaf != nullptr ? plain_leaf(object) : to_plain(node_of(object));
    }
    PyTypeObject* type = Py_TYPE(object);
    if (type == context_type) return to_plain(node_of(object));
    if (type == &PyList_Type || type == &PyTuple_Type || type == &PyDict_Type ||
        type == &PySet_Type) {
      return container(object);
    }
    if (reinterpret_cast<PyObject*>(type) == state_type.get()) {
      return Ref::check(PyObject_CallMethod(object, "to_dict", nullptr));
    }
    if (is_view(object) || is_view_of_leaf(type)) {
      Ref list = Ref::check(PySequence_List(object));
      return container(list.get());
    }
    return Ref::borrow(object);
  }

 private:
  Ref container(PyObject* object) {
    // A container inside itself: left alone, as there is no plain object to put in its place yet.
    if (!open_.insert(object).second) return Ref::borrow(object);
    if (Py_EnterRecursiveCall(" while converting to plain objects")) throw PythonError{};
    Ref result;
    try {
      result = rebuild(object);
    } catch (...) {
      Py_LeaveRecursiveCall();
      throw;
    }
    Py_LeaveRecursiveCall();
    open_.erase(object);
    return result;
  }

  Ref rebuild(PyObject* object) {
    bool changed = false;
    if (PyDict_CheckExact(object)) {
      Ref copy = Ref::check(PyDict_New());
      Ref items = Ref::check(PyDict_Items(object));
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.get()); ++i) {
        PyObject* pair = PyList_GET_ITEM(items.get(), i);
        Ref value = (*this)(PyTuple_GET_ITEM(pair, 1));
        changed |= value.get() != PyTuple_GET_ITEM(pair, 1);
        check(PyDict_SetItem(copy.get(), PyTuple_GET_ITEM(pair, 0), value.get()));
      }
      return changed ? copy : Ref::borrow(object);
    }
    Ref list = Ref::check(PySequence_List(object));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list.get()); ++i) {
      PyObject* before = PyList_GET_ITEM(list.get(), i);
      Ref value = (*this)(before);
      if (value.get() == before) continue;
      changed = true;
      check(PyList_SetItem(list.get(), i, value.release()));
    }
    if (!changed || PySet_Check(object)) return Ref::borrow(object);
    return PyTuple_Check(object) ? Ref::check(PyList_AsTuple(list.get())) : list;
  }

  std::unordered_set<PyObject*> open_;
};

}  // namespace

Ref plain(PyObject* object) { return Plainer()(object); }

Ref plain_result(PyObject* object) {
  if (object == Py_None || PyLong_CheckExact(object)) return Ref::borrow(object);
  if (is_proxy(object) || Py_TYPE(object) == context_type) return plain(object);
  // Containers that the function made of what it has read, such as list(ctx.rows).
  bool container = PyTuple_CheckExact(object) || PyList_CheckExact(object) ||
                   PyDict_CheckExact(object) || is_view(object) || is_view_of_leaf(Py_TYPE(object));
  return container ? plain(object) : Ref::borrow(object);
}

}  // namespace theus::bindings
