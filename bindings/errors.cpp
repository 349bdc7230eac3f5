#include "bindings/errors.h"

#include <array>
#include <cstdarg>
#include <exception>
#include <new>

#include "bindings/paths.h"
#include "worker/session.h"

namespace theus::bindings {
namespace {

constexpr const char* kModule = "theus.errors";
constexpr std::size_t kClassCount = static_cast<std::size_t>(ErrorClass::kCount);

std::array<Imported, kClassCount> classes = {{
    {kModule, "TheusError"},
    {kModule, "ReadOnlyError"},
    {kModule, "EncodeError"},
    {kModule, "DecodeError"},
    {kModule, "CapacityError"},
    {kModule, "CoordinatorLost"},
    {kModule, "CoordinatorNotFound"},
    {kModule, "VersionMismatch"},
    {kModule, "CommitUnknown"},
    {kModule, "RetriesExhausted"},
    {kModule, "ConflictError"},
}};

void set(ErrorClass which, const char* message) { PyErr_SetString(error_class(which), message); }

void set_from_exception() {
  try {
    throw;
  } catch (const PythonError&) {
  } catch (const worker::CapacityError& error) {
    set(ErrorClass::kCapacity, error.what());
  } catch (const worker::CoordinatorLost& error) {
    set(ErrorClass::kCoordinatorLost, error.what());
  } catch (const worker::CoordinatorNotFound& error) {
    set(ErrorClass::kCoordinatorNotFound, error.what());
  } catch (const worker::VersionMismatch& error) {
    set(ErrorClass::kVersionMismatch, error.what());
  } catch (const worker::CommitUnknown& error) {
    set(ErrorClass::kCommitUnknown, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    set(ErrorClass::kTheus, error.what());
  }
}

}  // namespace

PyObject* error_class(ErrorClass which) { return classes[static_cast<std::size_t>(which)].get(); }

void raise(PyObject* type, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  PyErr_FormatV(type, format, arguments);
  va_end(arguments);
  throw PythonError{};
}

void raise(ErrorClass which, const char* format, ...) {
  PyObject* type = error_class(which);
  va_list arguments;
  va_start(arguments, format);
  PyErr_FormatV(type, format, arguments);
  va_end(arguments);
  throw PythonError{};
}

void raise_at(ErrorClass which, PyObject* path, bool with_cause, const char* format, ...) {
  Ref cause;
  if (with_cause) {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != nullptr) PyException_SetTraceback(value, traceback);
    cause = Ref::steal(value);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
  }
  va_list arguments;
  va_start(arguments, format);
  Ref message = Ref::steal(PyUnicode_FromFormatV(format, arguments));
  va_end(arguments);
  if (!message) throw PythonError{};
  Ref error = call(error_class(which), message.get());
  check(PyObject_SetAttrString(error.get(), "path", spell_path(path).get()));
  if (cause) PyException_SetCause(error.get(), cause.release());
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  throw PythonError{};
}

void translate_exception() noexcept {
  try {
    set_from_exception();
  } catch (const PythonError&) {
    // Importing the class failed; that error stands instead.
  }
  if (PyErr_Occurred() == nullptr) {
    PyErr_SetString(PyExc_SystemError, "theus: an error was raised without being described");
  }
}

}  // namespace theus::bindings
