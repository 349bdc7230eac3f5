// What a ProcessContext has besides the methods of a mapping: access by path.
#include <vector>

#include "bindings/errors.h"
#include "bindings/merging.h"
#include "bindings/node.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/transaction_object.h"
#include "bindings/view.h"
#include "bindings/waiting.h"

namespace theus::bindings {
namespace {

Imported as_numpy{"numpy", "asarray"};

// A place in the tree: the node that should have it, and the key there. `parent` keeps what
// `node.owner` borrows.
struct Place {
  Ref parent;
  Node node;
  PyObject* key = nullptr;     // borrowed from the path; null for the root
  PyObject* absent = nullptr;  // the key on the way that does not exist, or null
};

[[noreturn]] void raise_inside_leaf(const Place& at, PyObject* key, PyObject* value) {
  Ref path = path_below(path_of(at.node.owner).get(), key);
  Ref cls = Ref::check(PyObject_GetAttrString(value, "__class__"));  // not the proxy's type
  Ref name = Ref::check(PyObject_GetAttrString(cls.get(), "__name__"));
  raise(PyExc_TypeError,
        "%U is a leaf (%U), and a path stops at leaves; read the leaf, then index it",
        path_text(path.get()).get(), name.get());
}

// Goes down to the last segment of `path`. Stops early, with `absent` set, at a missing parent.
Place walk(PyObject* self, PyObject* path) {
  Place at;
  at.node = node_of(self);
  Py_ssize_t size = PyTuple_GET_SIZE(path);
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* key = PyTuple_GET_ITEM(path, i);
    if (i == size - 1) {
      at.key = key;
      break;
    }
    Ref below = get_item(at.node, key);
    if (!below) {
      at.absent = key;
      break;
    }
    if (!is_proxy(below.get()) || as_proxy(below.get())->leaf != nullptr) {
      raise_inside_leaf(at, key, below.get());
    }
    at.node = node_of(below.get());
    at.parent = std::move(below);
  }
  return at;
}

PyObject* read_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                      PyObject* names) {
  return guarded([&]() -> PyObject* {
    PyObject* fallback = count == 2 ? arguments[1] : nullptr;
    Py_ssize_t named = names != nullptr ? PyTuple_GET_SIZE(names) : 0;
    if (named == 1 && count == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "default") == 0) {
      fallback = arguments[1];
    } else if (named != 0 || count < 1 || count > 2) {
      raise(PyExc_TypeError, "read(path[, default])");
    }
    Ref path = parse_path(arguments[0]);
    Place at = walk(self, path.get());
    if (at.absent == nullptr) {
      if (at.key == nullptr) return make_root_proxy(at.node.context).release();
      Ref value = get_item(at.node, at.key);
      if (value) return value.release();
    }
    if (fallback != nullptr) return Ref::borrow(fallback).release();
    raise_missing(at.node, at.absent != nullptr ? at.absent : at.key, false);
  });
}

// The place to write to. KeyError names a missing parent.
Place walk_to_write(PyObject* self, PyObject* path) {
  Place at = walk(self, path);
  if (at.absent != nullptr) {
    check_writable(at.node);
    raise_missing(at.node, at.absent, false);
  }
  if (at.key == nullptr) {
    raise(PyExc_ValueError,
          "the root itself cannot be replaced or deleted; use update() or clear()");
  }
  return at;
}

PyObject* write_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 2) raise(PyExc_TypeError, "write(path, value)");
    Ref path = parse_path(arguments[0]);
    Place at = walk_to_write(self, path.get());
    set_item(at.node, at.key, arguments[1]);
    return Ref::borrow(Py_None).release();
  });
}

PyObject* delete_method(PyObject* self, PyObject* text) {
  return guarded([&] {
    Ref path = parse_path(text);
    Place at = walk_to_write(self, path.get());
    if (!delete_item(at.node, at.key)) raise_missing(at.node, at.key, false);
    return Ref::borrow(Py_None).release();
  });
}

// ctx.add and its relatives.
PyObject* operate_method(const Operation& operation, PyObject* self, PyObject* const* arguments,
                         Py_ssize_t count) {
  return guarded([&] {
    if (count != 2) raise(PyExc_TypeError, "%s() takes a path and a value", operation.name);
    Ref path = parse_path(arguments[0]);
    Place at = walk_to_write(self, path.get());
    operate(operation, at.node, at.key, path.get(), arguments[1]);
    return Ref::borrow(Py_None).release();
  });
}
Imported add_function{"theus._operations", "add"};
Imported maximum_function{"theus._operations", "maximum"};
Imported minimum_function{"theus._operations", "minimum"};
Imported append_function{"theus._operations", "append"};
Imported insert_function{"theus._operations", "insert"};
Imported discard_function{"theus._operations", "discard"};

PyObject* add_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"add", shm::Fold::kAdd, &add_function}, self, arguments, count);
}
PyObject* maximum_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"maximum", shm::Fold::kMaximum, &maximum_function}, self, arguments,
                        count);
}
PyObject* minimum_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"minimum", shm::Fold::kMinimum, &minimum_function}, self, arguments,
                        count);
}
PyObject* append_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"append", shm::Fold::kNone, &append_function}, self, arguments, count);
}
PyObject* insert_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"insert", shm::Fold::kNone, &insert_function}, self, arguments, count);
}
PyObject* discard_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return operate_method({"discard", shm::Fold::kNone, &discard_function}, self, arguments, count);
}

PyObject* retry_method(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* { raise_retry(node_of(self).context); });
}

PyObject* refuse_copy(PyObject*, PyObject*) {
  PyErr_SetString(PyExc_TypeError,
                  "a context cannot be copied or pickled; use ctx.to_dict() for what it shows");
  return nullptr;
}

PyObject* reversed_method(PyObject* self, PyObject*) {
  return guarded([&] {
    return make_node_iterator(self, IteratorMode::kKeys, worker::Order::kBackward).release();
  });
}

PyObject* directory_method(PyObject* self, PyObject*) {
  return guarded([&] { return node_directory(self).release(); });
}

PyObject* to_array(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    Ref object = plain(self);
    return call(as_numpy.get(), object.get(), count > 0 ? arguments[0] : Py_None).release();
  });
}

PyObject* get_transaction(PyObject* self, void*) {
  return guarded([&] { return transaction_object_of(self).release(); });
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
PyCFunction fast_named(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef own_methods[] = {
    {"read", fast_named(read_method), METH_FASTCALL | METH_KEYWORDS,
     "Returns what is at a path, or default if nothing is. KeyError names what is missing; "
     "TypeError when the path goes inside a leaf."},
    {"write", fast(write_method), METH_FASTCALL,
     "Sets what is at a path. Never creates parents: KeyError names the missing one."},
    {"delete", delete_method, METH_O, "Deletes what is at a path; KeyError if nothing is."},
    {"add", fast(add_method), METH_FASTCALL,
     "Adds to the number or array at a path. Applied to the newest value at commit: no conflict "
     "with "
     "others who write it, unless this transaction reads it."},
    {"maximum", fast(maximum_method), METH_FASTCALL,
     "Raises the value at a path to at least this; otherwise as add()."},
    {"minimum", fast(minimum_method), METH_FASTCALL,
     "Lowers the value at a path to at most this; otherwise as add()."},
    {"append", fast(append_method), METH_FASTCALL,
     "Appends to the list at a path; otherwise as add()."},
    {"insert", fast(insert_method), METH_FASTCALL,
     "Adds an element to the set at a path; otherwise as add()."},
    {"discard", fast(discard_method), METH_FASTCALL,
     "Takes an element out of the set at a path, if it is there; otherwise as add()."},
    {"retry", retry_method, METH_NOARGS,
     "Gives up this attempt, sleeps until something that it has read changes, and runs it again, "
     "under engine.run(), run_async(), attempts() and process(). TheusError elsewhere, and when "
     "nothing has been read. The transaction cannot commit any more. Does not return."},
    {"__reversed__", reversed_method, METH_NOARGS, nullptr},
    {"__dir__", directory_method, METH_NOARGS, nullptr},
    {"__array__", fast(to_array), METH_FASTCALL, nullptr},
    {"__copy__", refuse_copy, METH_NOARGS, nullptr},
    {"__deepcopy__", refuse_copy, METH_O, nullptr},
    {"__reduce_ex__", refuse_copy, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyGetSetDef context_attributes[] = {
    {"transaction", get_transaction, nullptr, "The Transaction: its snapshot, delta and shadows.",
     nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef* context_methods() {
  static std::vector<PyMethodDef> all;
  for (PyMethodDef* method = node_methods; method->ml_name != nullptr; ++method) {
    all.push_back(*method);
  }
  for (const PyMethodDef& method : own_methods) all.push_back(method);
  return all.data();
}

}  // namespace theus::bindings
