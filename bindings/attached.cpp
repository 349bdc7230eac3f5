#include "bindings/attached.h"

#include "bindings/gil.h"
#include "bindings/ref.h"

namespace theus::bindings {

void* Attached::before() noexcept {
  waiting_.push_back(PyThread_get_thread_ident());
  return PyEval_SaveThread();
}

void Attached::after(void* token, bool may_throw) {
  take_gil(static_cast<PyThreadState*>(token));
  const bool failed = may_throw && PyErr_CheckSignals() != 0;
  const auto mine = std::find(waiting_.begin(), waiting_.end(), PyThread_get_thread_ident());
  waiting_.erase(mine);
  if (failed) throw PythonError{};
}

}  // namespace theus::bindings
