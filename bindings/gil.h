// Taking the GIL again, and what happens to threads at the interpreter's end.
//
// Up to Python 3.13 the interpreter ends a daemon thread that wants the GIL too late by
// pthread_exit, which unwinds the C++ frames below: destructors would run without the GIL, and a
// noexcept function ends the program with SIGABRT. Here such a thread sleeps until the process is
// gone, as from Python 3.14 on.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace theus::bindings {

[[noreturn]] inline void sleep_for_good() {
  for (;;) pause();
}

inline void take_gil(PyThreadState* saved) {
  try {
    PyEval_RestoreThread(saved);
  } catch (abi::__forced_unwind&) {
    sleep_for_good();
  }
}

// Calls into Python where frames below have to do with the GIL.
template <class Body>
auto call_python(Body&& body) {
  try {
    return body();
  } catch (abi::__forced_unwind&) {
    sleep_for_good();
  }
}

}  // namespace theus::bindings
