#include "bindings/paths.h"

namespace theus::bindings {
namespace {

Ref split(PyObject* text) {
  Ref dot = Ref::check(PyUnicode_FromString("."));
  Ref parts = Ref::check(PyUnicode_Split(text, dot.get(), -1));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parts.get()); ++i) {
    if (PyUnicode_GET_LENGTH(PyList_GET_ITEM(parts.get(), i)) == 0) {
      PyErr_Format(PyExc_ValueError,
                   "path %R has an empty segment; the root is (), and a key that is empty or has a "
                   "dot is written in a tuple",
                   text);
      throw PythonError{};
    }
  }
  return Ref::check(PyList_AsTuple(parts.get()));
}

// True if `key` may stand in a dotted path.
bool is_plain_segment(PyObject* key) {
  if (!PyUnicode_CheckExact(key) || PyUnicode_GET_LENGTH(key) == 0) return false;
  return PyUnicode_FindChar(key, '.', 0, PyUnicode_GET_LENGTH(key), 1) == -1;
}

}  // namespace

Ref parse_path(PyObject* path) {
  if (PyTuple_CheckExact(path)) return Ref::borrow(path);
  if (PyUnicode_Check(path)) return split(path);
  if (PyTuple_Check(path)) return Ref::check(PySequence_Tuple(path));
  PyErr_Format(PyExc_TypeError, "a path is a str with dots or a tuple of keys, not %.100s",
               Py_TYPE(path)->tp_name);
  throw PythonError{};
}

Ref spell_path(PyObject* path) {
  Py_ssize_t size = PyTuple_GET_SIZE(path);
  bool plain = size > 0;
  for (Py_ssize_t i = 0; i < size && plain; ++i) {
    plain = is_plain_segment(PyTuple_GET_ITEM(path, i));
  }
  if (!plain) return Ref::borrow(path);
  Ref dot = Ref::check(PyUnicode_FromString("."));
  return Ref::check(PyUnicode_Join(dot.get(), path));
}

Ref path_text(PyObject* path) {
  Ref spelled = spell_path(path);
  return PyUnicode_Check(spelled.get()) ? spelled : Ref::check(PyObject_Repr(spelled.get()));
}

Ref path_below(PyObject* path, PyObject* key) {
  Py_ssize_t size = PyTuple_GET_SIZE(path);
  Ref longer = Ref::check(PyTuple_New(size + 1));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* item = PyTuple_GET_ITEM(path, i);
    Py_INCREF(item);
    PyTuple_SET_ITEM(longer.get(), i, item);
  }
  Py_INCREF(key);
  PyTuple_SET_ITEM(longer.get(), size, key);
  return longer;
}

}  // namespace theus::bindings
