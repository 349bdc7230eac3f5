// The package's exception classes (theus/errors.py) as C++ sees them, and the way from C++
// exceptions to Python ones.
#pragma once

#include <type_traits>

#include "bindings/gil.h"
#include "bindings/ref.h"

namespace theus::bindings {

enum class ErrorClass {
  kTheus,
  kReadOnly,
  kEncode,
  kDecode,
  kCapacity,
  kCoordinatorLost,
  kCoordinatorNotFound,
  kVersionMismatch,
  kCommitUnknown,
  kRetriesExhausted,
  kConflict,
  kCount,
};

// Borrowed. Throws PythonError when the package cannot be imported.
PyObject* error_class(ErrorClass which);

// Raises with a message; `format` as PyUnicode_FromFormat.
[[noreturn]] void raise(ErrorClass which, const char* format, ...);
[[noreturn]] void raise(PyObject* type, const char* format, ...);
// The same with the attribute `path` set to what spell_path() makes of `path` (a tuple), and, if
// `with_cause`, the present error as cause.
[[noreturn]] void raise_at(ErrorClass which, PyObject* path, bool with_cause, const char* format,
                           ...);

// To be called inside a catch block: sets the Python error that the C++ exception stands for.
void translate_exception() noexcept;

// Runs `body`, and turns an exception into Python's way of saying so: nullptr or -1.
template <class Body>
auto guarded(Body&& body) noexcept -> std::invoke_result_t<Body> {
  using Result = std::invoke_result_t<Body>;
  try {
    return body();
  } catch (abi::__forced_unwind&) {
    sleep_for_good();
  } catch (...) {
    translate_exception();
    if constexpr (std::is_pointer_v<Result>) {
      return nullptr;
    } else {
      return static_cast<Result>(-1);
    }
  }
}

}  // namespace theus::bindings
