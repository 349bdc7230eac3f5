// What a mapping node can do, as methods and slots: of SupervisorProxy and of ProcessContext.
#include "bindings/errors.h"
#include "bindings/node.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/values.h"
#include "bindings/view.h"

namespace theus::bindings {
namespace {

Imported as_items{"theus._views", "as_items"};
Imported mapping_equal{"theus._views", "equal"};

bool starts_with_underscore(PyObject* name) {
  return PyUnicode_GET_LENGTH(name) > 0 && PyUnicode_READ_CHAR(name, 0) == '_';
}

[[noreturn]] void raise_attribute(const char* format, PyObject* name) {
  raise(PyExc_AttributeError, format, name);
}

PyObject* get_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count < 1 || count > 2) raise(PyExc_TypeError, "get(key, default=None)");
    Ref value = get_item(node_of(self), arguments[0]);
    if (!value) value = Ref::borrow(count == 2 ? arguments[1] : Py_None);
    return value.release();
  });
}

// Takes the value of `key` out, as an object that belongs to the caller. Null: there is none.
Ref take_out(const Node& node, PyObject* key) {
  check_writable(node);
  EncodedKey encoded(key, node.owner);
  Found found = look_up(node, encoded);
  if (found.absent()) return Ref();
  Ref value = value_to_plain(node, key, found, 0);
  static Imported private_copy{"theus._leaf_parts", "private_copy"};
  value = call(private_copy.get(), value.get());
  delete_item(node, key);
  return value;
}

PyObject* pop_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count < 1 || count > 2) raise(PyExc_TypeError, "pop(key[, default])");
    Node node = node_of(self);
    Ref value = take_out(node, arguments[0]);
    if (!value && count == 1) raise_missing(node, arguments[0], false);
    if (!value) value = Ref::borrow(arguments[1]);
    return value.release();
  });
}

PyObject* popitem_method(PyObject* self, PyObject*) {
  return guarded([&] {
    Node node = node_of(self);
    check_writable(node);
    NodeIterator iterator(node, worker::Order::kBackward);
    if (!iterator.next(node)) raise(PyExc_KeyError, "popitem(): the mapping is empty");
    Ref last = iterator.key();
    Ref value = take_out(node, last.get());
    return Ref::check(PyTuple_Pack(2, last.get(), value.get())).release();
  });
}

PyObject* setdefault_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count < 1 || count > 2) raise(PyExc_TypeError, "setdefault(key, default=None)");
    Node node = node_of(self);
    Ref value = get_item(node, arguments[0]);
    if (value) return value.release();
    set_item(node, arguments[0], count == 2 ? arguments[1] : Py_None);
    return get_item(node, arguments[0]).release();
  });
}

// Writes all that update() was given, or nothing. `other` and `names` may be null.
void update_node(PyObject* self, PyObject* other, PyObject* names) {
  Node node = node_of(self);
  check_writable(node);
  Ref nothing = Ref::check(PyTuple_New(0));
  if (other != nullptr) check_may_be_copied(self, other);
  Ref items = call(as_items.get(), other != nullptr ? other : nothing.get(),
                   names != nullptr ? names : Py_None);
  write_items(node_of(self), items.get());
}

PyObject* update_method(PyObject* self, PyObject* arguments, PyObject* names) {
  return guarded([&] {
    if (PyTuple_GET_SIZE(arguments) > 1) {
      raise(PyExc_TypeError, "update() takes at most one positional argument");
    }
    PyObject* other = PyTuple_GET_SIZE(arguments) == 1 ? PyTuple_GET_ITEM(arguments, 0) : nullptr;
    update_node(self, other, names);
    return Ref::borrow(Py_None).release();
  });
}

PyObject* clear_method(PyObject* self, PyObject*) {
  return guarded([&] {
    clear(node_of(self));
    return Ref::borrow(Py_None).release();
  });
}

PyObject* keys_method(PyObject* self, PyObject*) {
  return guarded([&] { return make_view(self, IteratorMode::kKeys).release(); });
}
PyObject* values_method(PyObject* self, PyObject*) {
  return guarded([&] { return make_view(self, IteratorMode::kValues).release(); });
}
PyObject* items_method(PyObject* self, PyObject*) {
  return guarded([&] { return make_view(self, IteratorMode::kItems).release(); });
}

PyObject* to_dict_method(PyObject* self, PyObject*) {
  return guarded([&] { return to_plain(node_of(self)).release(); });
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
PyCFunction named(PyObject* (*function)(PyObject*, PyObject*, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyMethodDef node_methods[] = {
    {"get", fast(get_method), METH_FASTCALL,
     "get($self, key, default=None, /)\n--\n\nReturns the value of key, or default when there is "
     "none."},
    {"pop", fast(pop_method), METH_FASTCALL,
     "Removes key and returns its value as plain objects, or default, or raises KeyError."},
    {"popitem", popitem_method, METH_NOARGS,
     "Removes the last item and returns it as (key, plain value)."},
    {"setdefault", fast(setdefault_method), METH_FASTCALL,
     "Returns the value of key, after setting it to default if there was none."},
    {"update", named(update_method), METH_VARARGS | METH_KEYWORDS,
     "Sets every item of a mapping, of pairs, and of the keywords: all of them or none."},
    {"clear", clear_method, METH_NOARGS, "Removes every item, in one operation."},
    {"keys", keys_method, METH_NOARGS, "A view of the keys, in insertion order."},
    {"values", values_method, METH_NOARGS, "A view of the values, in insertion order."},
    {"items", items_method, METH_NOARGS, "A view of the items, in insertion order."},
    {"copy", to_dict_method, METH_NOARGS, "The same as to_dict()."},
    {"to_dict", to_dict_method, METH_NOARGS, "A plain dict of plain objects, all the way down."},
    {nullptr, nullptr, 0, nullptr},
};

PyObject* node_get_attribute(PyObject* self, PyObject* name) {
  if (_PyType_Lookup(Py_TYPE(self), name) != nullptr) return PyObject_GenericGetAttr(self, name);
  return guarded([&] {
    // Never keys: debuggers, copy and NumPy probe for such names, and must not cause reads.
    if (starts_with_underscore(name)) {
      raise_attribute("no attribute %R; a key that starts with _ is reached by item access", name);
    }
    Node node = node_of(self);
    Ref value = get_item(node, name);
    if (!value) raise_missing(node, name, true);
    return value.release();
  });
}

int node_set_attribute(PyObject* self, PyObject* name, PyObject* value) {
  return guarded([&] {
    if (_PyType_Lookup(Py_TYPE(self), name) != nullptr) {
      raise_attribute("%R is the name of a method; use item access for a key of that name", name);
    }
    if (starts_with_underscore(name)) {
      raise_attribute("%R starts with _; use item access for a key of that name", name);
    }
    Node node = node_of(self);
    if (value != nullptr) {
      set_item(node, name, value);
    } else if (!delete_item(node, name)) {
      raise_missing(node, name, true);
    }
    return 0;
  });
}

PyObject* node_subscript(PyObject* self, PyObject* key) {
  return guarded([&] {
    Node node = node_of(self);
    Ref value = get_item(node, key);
    if (!value) raise_missing(node, key, false);
    return value.release();
  });
}

int node_assign(PyObject* self, PyObject* key, PyObject* value) {
  return guarded([&] {
    Node node = node_of(self);
    if (value != nullptr) {
      set_item(node, key, value);
    } else if (!delete_item(node, key)) {
      raise_missing(node, key, false);
    }
    return 0;
  });
}

int node_contains(PyObject* self, PyObject* key) {
  return guarded([&] { return has_key(node_of(self), key) ? 1 : 0; });
}

Py_ssize_t node_length(PyObject* self) {
  return guarded([&] { return size(node_of(self)); });
}

PyObject* node_compare(PyObject* self, PyObject* other, int operation) {
  if (operation != Py_EQ && operation != Py_NE) return Ref::borrow(Py_NotImplemented).release();
  return guarded([&]() -> PyObject* {
    node_of(self);  // raises after the end of the transaction, whatever it is compared with
    Ref equal = call(mapping_equal.get(), self, other);
    if (equal.get() == Py_NotImplemented) return equal.release();
    bool same = PyObject_IsTrue(equal.get()) == 1;
    return PyBool_FromLong(same == (operation == Py_EQ));
  });
}

PyObject* node_or(PyObject* left, PyObject* right) {
  return guarded([&]() -> PyObject* {
    Ref left_plain = plain(left);
    Ref right_plain = plain(right);
    if (!PyDict_Check(left_plain.get()) || !PyDict_Check(right_plain.get())) {
      return Ref::borrow(Py_NotImplemented).release();
    }
    return PyNumber_Or(left_plain.get(), right_plain.get());  // a defaultdict stays one
  });
}

PyObject* node_inplace_or(PyObject* self, PyObject* other) {
  return guarded([&] {
    update_node(self, other, nullptr);
    return Ref::borrow(self).release();
  });
}

}  // namespace theus::bindings
