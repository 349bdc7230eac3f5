// Tells which decoded objects may be given out as they are, and which stand behind a proxy.
#pragma once

#include <cstdint>

#include "bindings/ref.h"

namespace theus::bindings {

// docs/bindings.md, "What a value is given out as".
enum class Shape : std::uint8_t { kUnknown, kFrozen, kFlat, kKnown, kObject };

// Looks at `value` and everything in it. Runs no code of the value's class. Throws PythonError.
// *may_be_shared: whether what is frozen in it cannot be changed by any trick of Python's. A frozen
// dataclass can (object.__setattr__): it is given out as itself, each time as another object.
Shape classify(PyObject* value, bool* may_be_shared = nullptr);

inline bool is_simple(PyObject* value) {
  return value == Py_None || PyLong_CheckExact(value) || PyUnicode_CheckExact(value) ||
         PyFloat_CheckExact(value) || PyBool_Check(value) || PyBytes_CheckExact(value);
}

// The same question for one value that is about to be given out.
inline bool is_frozen(PyObject* value) {
  if (PyList_CheckExact(value) || PyDict_CheckExact(value)) return false;
  return is_simple(value) || classify(value) == Shape::kFrozen;
}

// Exactly numpy.ndarray. Does not import NumPy.
bool is_array(PyObject* value);

}  // namespace theus::bindings
