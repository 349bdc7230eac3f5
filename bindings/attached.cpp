#include "bindings/attached.h"

#include <iterator>

#include "bindings/gil.h"
#include "bindings/ref.h"

namespace theus::bindings {

void* Attached::before() noexcept {
  waiting_.push_back({PyThread_get_thread_ident(), openings_});
  return PyEval_SaveThread();
}

void Attached::after(void* token, bool may_throw) {
  take_gil(static_cast<PyThreadState*>(token));
  const bool failed = may_throw && PyErr_CheckSignals() != 0;
  // The newest of this thread: handlers may have waited in between, and are done with it.
  const unsigned long thread = PyThread_get_thread_ident();
  const auto mine = std::find_if(waiting_.rbegin(), waiting_.rend(),
                                 [&](const WaitingThread& each) { return each.thread == thread; });
  waiting_.erase(std::next(mine).base());
  if (failed) throw PythonError{};
}

}  // namespace theus::bindings
