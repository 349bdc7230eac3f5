#include "bindings/represent.h"

#include "bindings/errors.h"

namespace theus::bindings {

const char* status_text(const ContextObject* context) {
  switch (context->status) {
    case Status::kOpen:
      return is_forked(context) ? "of the parent process" : "open";
    case Status::kCommitting:
      return "committing";
    case Status::kCommitted:
      return "committed";
    case Status::kConflicted:
      return "conflicted";
    case Status::kRolledBack:
      return "rolled back";
    case Status::kFailed:
      return "failed";
    case Status::kClosed:
      return "closed";
  }
  return "damaged";
}

Ref options_text(bool serializable, PyObject* label) {
  const char* isolation = serializable ? "serializable" : "snapshot";
  if (label == nullptr) return Ref::check(PyUnicode_FromFormat("isolation='%s'", isolation));
  Ref quoted = Ref::check(PyUnicode_Type.tp_repr(label));  // not what a subclass makes of it
  return Ref::check(PyUnicode_FromFormat("isolation='%s', label=%.80U", isolation, quoted.get()));
}

PyObject* context_represent(PyObject* self) {
  const auto* context = reinterpret_cast<ContextObject*>(self);
  const char* what = context->status != Status::kOpen ? ", ended"
                     : is_forked(context)             ? ", of the parent process"
                     : context->holder == nullptr     ? ", snapshot"
                                                      : "";
  return PyUnicode_FromFormat("ProcessContext(version=%llu%s)",
                              static_cast<unsigned long long>(context->version), what);
}

}  // namespace theus::bindings
