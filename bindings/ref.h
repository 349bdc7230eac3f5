// Owned references to Python objects, and the one C++ exception that says "the Python error
// indicator is set".
#pragma once

#include <Python.h>

#include <utility>

namespace theus::bindings {

// Thrown after a Python call failed; the error indicator says why.
struct PythonError {};

// Owns one reference, or none. Needs the GIL for everything but moving.
class Ref {
 public:
  Ref() = default;
  static Ref steal(PyObject* object) { return Ref(object); }
  static Ref borrow(PyObject* object) {
    Py_XINCREF(object);
    return Ref(object);
  }
  // Takes the result of a Python call; throws PythonError when it is null.
  static Ref check(PyObject* object) {
    if (object == nullptr) throw PythonError{};
    return Ref(object);
  }
  Ref(const Ref& other) : object_(other.object_) { Py_XINCREF(object_); }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  explicit Ref(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

inline void check(int result) {
  if (result < 0) throw PythonError{};
}

// Keeps the error indicator across code that may run Python.
class ErrorKeeper {
 public:
  ErrorKeeper() { PyErr_Fetch(&type_, &value_, &traceback_); }
  ~ErrorKeeper() { PyErr_Restore(type_, value_, traceback_); }
  ErrorKeeper(const ErrorKeeper&) = delete;
  ErrorKeeper& operator=(const ErrorKeeper&) = delete;

 private:
  PyObject* type_ = nullptr;
  PyObject* value_ = nullptr;
  PyObject* traceback_ = nullptr;
};

// A callable or class of a Python module, looked up at first use and kept for ever.
class Imported {
 public:
  constexpr Imported(const char* module, const char* name) : module_(module), name_(name) {}
  // Borrowed. Throws PythonError.
  PyObject* get() {
    if (object_ == nullptr) {
      Ref module = Ref::check(PyImport_ImportModule(module_));
      object_ = Ref::check(PyObject_GetAttrString(module.get(), name_)).release();
    }
    return object_;
  }

 private:
  const char* module_;
  const char* name_;
  PyObject* object_ = nullptr;
};

template <class... Arguments>
Ref call(PyObject* callable, Arguments... arguments) {
  PyObject* list[] = {nullptr, arguments...};
  return Ref::check(PyObject_Vectorcall(
      callable, list + 1, sizeof...(arguments) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

}  // namespace theus::bindings
