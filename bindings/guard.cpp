#include "bindings/guard.h"

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/free_list.h"

namespace theus::bindings {
namespace {

struct GuardObject {
  PyObject_HEAD
  EngineObject* engine;    // strong
  ContextObject* context;  // strong; null until it is entered
  PyObject* label;         // strong; may be null
  worker::Isolation isolation;
  bool snapshot;
};

PyTypeObject* guard_type = nullptr;
FreeList<GuardObject> free_guards;

GuardObject* as_guard(PyObject* self) { return reinterpret_cast<GuardObject*>(self); }

int guard_traverse(PyObject* self, visitproc visit, void* arg) {
  const GuardObject* guard = as_guard(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(reinterpret_cast<PyObject*>(guard->engine));
  Py_VISIT(reinterpret_cast<PyObject*>(guard->context));
  Py_VISIT(guard->label);
  return 0;
}

int guard_clear(PyObject* self) {
  GuardObject* guard = as_guard(self);
  Py_CLEAR(guard->engine);
  Py_CLEAR(guard->context);
  Py_CLEAR(guard->label);
  return 0;
}

void guard_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  guard_clear(self);
  free_guards.give(as_guard(self));
}

PyObject* guard_enter(PyObject* self, PyObject*) {
  return guarded([&] {
    GuardObject* guard = as_guard(self);
    if (guard->engine == nullptr) raise(ErrorClass::kTheus, "this guard is being collected");
    if (guard->context != nullptr) {
      raise(ErrorClass::kTheus,
            "this guard has been entered before; call engine.transaction() anew for each `with`");
    }
    guard->context = guard->snapshot
                         ? open_snapshot(guard->engine, false)
                         : open_transaction(guard->engine, guard->isolation, guard->label);
    return Ref::borrow(reinterpret_cast<PyObject*>(guard->context)).release();
  });
}

// Commits. Throws the ConflictError.
void leave_normally(ContextObject* context) {
  if (context->thread != PyThread_get_thread_ident()) {
    end_context(context, Status::kRolledBack);
    raise(ErrorClass::kTheus,
          "the `with` of a transaction was left in thread %lu, but it was entered in thread %lu; "
          "nothing was written",
          PyThread_get_thread_ident(), context->thread);
  }
  CommitOutcome outcome = commit_context(context, true);
  if (outcome.committed) return;
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(outcome.conflict.get())),
                  outcome.conflict.get());
  throw PythonError{};
}

PyObject* guard_exit(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    ContextObject* context = as_guard(self)->context;
    if (count != 3) raise(PyExc_TypeError, "__exit__ takes three arguments");
    if (context == nullptr) raise(ErrorClass::kTheus, "this guard was never entered");
    bool failed = arguments[0] != Py_None;
    if (context->status != Status::kOpen) {
      if (context->status == Status::kClosed && !as_guard(self)->snapshot && !failed) {
        raise(ErrorClass::kTheus,
              "the engine was closed inside of this transaction; nothing was written");
      }
    } else if (is_forked(context)) {
      end_context(context, Status::kClosed);  // the parent's: only forgotten
    } else if (as_guard(self)->snapshot) {
      end_context(context, Status::kClosed);
    } else if (failed) {
      end_context(context, Status::kRolledBack);
    } else {
      leave_normally(context);
    }
    return Ref::borrow(Py_False).release();
  });
}

PyMethodDef methods[] = {
    {"__enter__", guard_enter, METH_NOARGS, "Opens it and returns the ProcessContext."},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(guard_exit)),
     METH_FASTCALL,
     "Commits, or rolls back if an exception passes. Raises ConflictError on a conflict."},
    {nullptr, nullptr, 0, nullptr},
};

GuardObject* new_guard(EngineObject* engine) {
  GuardObject* guard = free_guards.take(guard_type);
  Py_INCREF(engine);
  guard->engine = engine;
  return guard;
}

Ref track(GuardObject* guard) {
  PyObject_GC_Track(reinterpret_cast<PyObject*>(guard));
  return Ref::steal(reinterpret_cast<PyObject*>(guard));
}

}  // namespace

void make_guard_type(PyObject* module) {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(guard_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(guard_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(guard_clear)},
      {Py_tp_methods, methods},
      {Py_tp_doc, const_cast<char*>("Opens a transaction or a snapshot for one `with` statement.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus.ContextGuard", sizeof(GuardObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  guard_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
  check(PyObject_SetAttrString(module, "ContextGuard", reinterpret_cast<PyObject*>(guard_type)));
}

Ref make_transaction_guard(EngineObject* engine, worker::Isolation isolation, PyObject* label) {
  GuardObject* guard = new_guard(engine);
  guard->isolation = isolation;
  Py_XINCREF(label);
  guard->label = label;
  return track(guard);
}

Ref make_snapshot_guard(EngineObject* engine) {
  GuardObject* guard = new_guard(engine);
  guard->snapshot = true;
  return track(guard);
}

}  // namespace theus::bindings
