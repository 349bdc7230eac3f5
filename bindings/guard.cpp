#include "bindings/guard.h"

#include <structmember.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/free_list.h"
#include "bindings/losses.h"
#include "bindings/represent.h"
#include "bindings/waiting.h"

namespace theus::bindings {
namespace {

struct GuardObject {
  PyObject_HEAD EngineObject* engine;  // strong
  ContextObject* context;              // strong; null until it is entered
  PyObject* label;                     // strong; may be null
  vectorcallfunc vectorcall;
  worker::Isolation isolation;
  bool snapshot;
  bool may_retry;
  bool losing;
  bool gives_way;
  worker::TurnWish* wish;        // owned; may be null
  worker::Footprint* footprint;  // owned: of the conflict that it met; or null
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
  delete std::exchange(guard->wish, nullptr);
  delete std::exchange(guard->footprint, nullptr);
  return 0;
}

void guard_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  guard_clear(self);
  free_guards.give(as_guard(self));
}

PyObject* enter(PyObject* self) {
  return guarded([&] {
    GuardObject* guard = as_guard(self);
    if (guard->engine == nullptr) raise(ErrorClass::kTheus, "this guard is being collected");
    if (guard->context != nullptr) {
      raise(ErrorClass::kTheus,
            "this guard has been entered before; call engine.transaction() anew for each `with`");
    }
    // While a turn is waited for, others run; the wish is given away so that it is for one opening.
    const std::unique_ptr<worker::TurnWish> wish(std::exchange(guard->wish, nullptr));
    guard->context = guard->snapshot ? open_snapshot(guard->engine, false)
                                     : open_transaction(guard->engine, guard->isolation,
                                                        guard->label, wish.get());
    guard->context->may_retry = guard->may_retry;
    guard->context->losing = guard->losing;
    guard->context->gives_way = guard->gives_way;
    return Ref::borrow(reinterpret_cast<PyObject*>(guard->context)).release();
  });
}

void check_same_thread(ContextObject* context) {
  const unsigned long entered = context->thread;
  if (entered == PyThread_get_thread_ident()) return;
  end_context(context, Status::kRolledBack);
  context->thread = kLeftElsewhere;
  raise(ErrorClass::kTheus,
        "the `with` of a transaction was left in thread %lu, but it was entered in thread %lu; "
        "nothing was written",
        PyThread_get_thread_ident(), entered);
}

// Returns the on_commit functions. Throws the ConflictError.
Ref commit_or_raise(GuardObject* guard) {
  CommitOutcome outcome = commit_context(guard->context, true);
  if (outcome.committed) return std::move(outcome.callbacks);
  guard->footprint = outcome.footprint.release();
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(outcome.conflict.get())),
                  outcome.conflict.get());
  throw PythonError{};
}

[[noreturn]] void raise_engine_closed() {
  raise(ErrorClass::kTheus,
        "the engine was closed inside of this transaction; nothing was written");
}

PyObject* leave(PyObject* self, PyObject* const* arguments) {
  return guarded([&] {
    ContextObject* context = as_guard(self)->context;
    if (context == nullptr) raise(ErrorClass::kTheus, "this guard was never entered");
    bool failed = arguments[0] != Py_None;
    if (context->status != Status::kOpen) {
      const bool commits = !as_guard(self)->snapshot && !failed;
      if (commits && context->status == Status::kClosed) raise_engine_closed();
      if (commits && context->thread == kLeftElsewhere) {
        raise(ErrorClass::kTheus,
              "the `with` of this transaction was left in another thread before, which rolled it "
              "back; nothing was written");
      }
    } else if (is_forked(context)) {
      end_context(context, Status::kClosed);  // the parent's: only forgotten
    } else if (as_guard(self)->snapshot) {
      end_context(context, Status::kClosed);
    } else if (failed) {
      end_context(context, Status::kRolledBack);
    } else {
      check_same_thread(context);
      run_callbacks(commit_or_raise(as_guard(self)));
    }
    return Ref::borrow(Py_False).release();
  });
}

// ------------------------------------------------------------------------------ async with

Imported enter_async{"theus._aio", "enter"};
Imported leave_async{"theus._aio", "leave"};

PyObject* enter_async_method(PyObject* self, PyObject*) {
  return guarded([&] { return call(enter_async.get(), self).release(); });
}

PyObject* leave_async_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 3) raise(PyExc_TypeError, "__aexit__ takes three arguments");
    return call(leave_async.get(), self, arguments[0], arguments[1], arguments[2]).release();
  });
}

// True: there is something to commit, and the next thread that calls _commit_here() may do it; from
// here on nobody else may use the context. False: leave as usual, it takes no time.
PyObject* hand_over(PyObject* self, PyObject*) {
  return guarded([&] {
    ContextObject* context = as_guard(self)->context;
    bool at_once = context == nullptr || context->status != Status::kOpen || is_forked(context) ||
                   context->holder == nullptr || context->doom != nullptr;
    if (!at_once) {
      check_same_thread(context);
      at_once = context->leaves == nullptr && !transaction_of(context).has_writes();
    }
    if (!at_once) context->thread = kHandedOver;
    return PyBool_FromLong(!at_once);
  });
}

// Commits in this thread; returns the list of on_commit functions or None.
PyObject* commit_here(PyObject* self, PyObject*) {
  return guarded([&] {
    ContextObject* context = as_guard(self)->context;
    if (context == nullptr || context->status != Status::kOpen) raise_engine_closed();
    if (context->thread != kHandedOver) raise(ErrorClass::kTheus, "nothing was handed over");
    context->thread = PyThread_get_thread_ident();
    Ref callbacks = commit_or_raise(as_guard(self));
    return callbacks ? callbacks.release() : Ref::borrow(Py_None).release();
  });
}

PyObject* run_callbacks_method(PyObject*, PyObject* callbacks) {
  return guarded([&] {
    if (PyList_Check(callbacks)) run_callbacks(Ref::borrow(callbacks));
    return Ref::borrow(Py_None).release();
  });
}

// For attempts(): the Target if the attempt ends with its ctx.retry(), otherwise None.
PyObject* retry_target_method(PyObject* self, PyObject* error) {
  return guarded([&] {
    ContextObject* context = as_guard(self)->context;
    if (context == nullptr || context->status != Status::kOpen) {
      return Ref::borrow(Py_None).release();
    }
    Ref target = retry_target(context, error == Py_None ? nullptr : error);
    return target ? target.release() : Ref::borrow(Py_None).release();
  });
}

PyObject* represent(PyObject* self) {
  return guarded([&] {
    const GuardObject* guard = as_guard(self);
    Ref what = guard->snapshot ? Ref::check(PyUnicode_FromString("snapshot"))
                               : options_text(guard->isolation == worker::Isolation::kSerializable,
                                              guard->label);
    const char* status = guard->context != nullptr ? status_text(guard->context) : "not entered";
    return Ref::check(PyUnicode_FromFormat("ContextGuard(%U, %s)", what.get(), status)).release();
  });
}

PyMethodDef methods[] = {
    {"__aenter__", enter_async_method, METH_NOARGS, nullptr},
    {"__aexit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(leave_async_method)),
     METH_FASTCALL, nullptr},
    {"_hand_over", hand_over, METH_NOARGS, nullptr},
    {"_commit_here", commit_here, METH_NOARGS, nullptr},
    {"_run_callbacks", run_callbacks_method, METH_O, nullptr},
    {"_retry_target", retry_target_method, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

// ------------------------------------------------------------------------------ with

// A `with` looks up __enter__ and __exit__ and calls what it finds, which for ordinary methods
// makes and drops two bound methods. Here both names are descriptors that give the guard itself,
// and the guard, called without arguments, enters, and with three, leaves: nothing is allocated.
PyObject* call_guard(PyObject* self, PyObject* const* arguments, std::size_t flagged,
                     PyObject* names) {
  Py_ssize_t count = PyVectorcall_NARGS(flagged);
  if (names == nullptr && count == 0) return enter(self);
  if (names == nullptr && count == 3) return leave(self, arguments);
  PyErr_SetString(PyExc_TypeError, "__enter__ takes no arguments, __exit__ takes three");
  return nullptr;
}

PyObject* give_guard(PyObject* descriptor, PyObject* guard, PyObject*) {
  PyObject* given = guard != nullptr ? guard : descriptor;
  Py_INCREF(given);
  return given;
}

// type(guard).__enter__(guard), as contextlib.ExitStack calls it.
PyObject* call_descriptor(PyObject*, PyObject* arguments, PyObject* names) {
  Py_ssize_t count = PyTuple_GET_SIZE(arguments);
  PyObject* guard = count > 0 ? PyTuple_GET_ITEM(arguments, 0) : nullptr;
  if (names != nullptr || guard == nullptr || Py_TYPE(guard) != guard_type) {
    PyErr_SetString(PyExc_TypeError, "a ContextGuard is needed");
    return nullptr;
  }
  PyObject* const* rest = PySequence_Fast_ITEMS(arguments) + 1;
  return call_guard(guard, rest, static_cast<std::size_t>(count - 1), nullptr);
}

PyTypeObject* make_descriptor_type() {
  static PyType_Slot slots[] = {
      {Py_tp_descr_get, reinterpret_cast<void*>(give_guard)},
      {Py_tp_call, reinterpret_cast<void*>(call_descriptor)},
      {0, nullptr},
  };
  static PyType_Spec spec = {"theus._theus.GuardMethod", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT,
                             slots};
  return reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(GuardObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

GuardObject* new_guard(EngineObject* engine) {
  GuardObject* guard = free_guards.take(guard_type);
  Py_INCREF(engine);
  guard->engine = engine;
  guard->vectorcall = call_guard;
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
      {Py_tp_repr, reinterpret_cast<void*>(represent)},
      {Py_tp_members, members},
      {Py_tp_methods, methods},
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_doc, const_cast<char*>(
                      "Opens a transaction or a snapshot for one `with` or `async with` "
                      "statement.\n\nUnder `async with` the commit runs in a thread of the event "
                      "loop's default executor; it is not interrupted by a cancellation, which "
                      "goes on afterwards.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {"theus.ContextGuard", sizeof(GuardObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
                                 Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
                             slots};
  guard_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
  Ref descriptor_type = Ref::steal(reinterpret_cast<PyObject*>(make_descriptor_type()));
  Ref descriptor = call(descriptor_type.get());
  auto* type = reinterpret_cast<PyObject*>(guard_type);
  check(PyObject_SetAttrString(type, "__enter__", descriptor.get()));
  check(PyObject_SetAttrString(type, "__exit__", descriptor.get()));
  check(PyObject_SetAttrString(module, "ContextGuard", reinterpret_cast<PyObject*>(guard_type)));
}

Ref make_transaction_guard(EngineObject* engine, worker::Isolation isolation, PyObject* label) {
  GuardObject* guard = new_guard(engine);
  guard->isolation = isolation;
  Py_XINCREF(label);
  guard->label = label;
  return track(guard);
}

Ref make_attempt_guard(EngineObject* engine, const Losses& losses, bool gives_way,
                       PyObject* previous) {
  GuardObject* guard = new_guard(engine);
  Ref owner = track(guard);
  guard->isolation = worker::Isolation::kSerializable;
  guard->may_retry = true;
  guard->losing = wants_turn_soon(losses);
  guard->gives_way = gives_way;
  if (wants_turn(losses)) {
    worker::Footprint* met =
        Py_TYPE(previous) == guard_type ? as_guard(previous)->footprint : nullptr;
    guard->wish = new worker::TurnWish(wish_for(losses, met));
  }
  return owner;
}

Ref make_snapshot_guard(EngineObject* engine) {
  GuardObject* guard = new_guard(engine);
  guard->snapshot = true;
  return track(guard);
}

}  // namespace theus::bindings
