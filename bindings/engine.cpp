#include "bindings/engine.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <new>

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/guard.h"
#include "bindings/proxy.h"
#include "worker/connection.h"
#include "worker/retry.h"

namespace theus::bindings {
namespace {

constexpr std::size_t kSpareMax = 8;
constexpr std::uint32_t kRetriesDefault = 16;
constexpr Py_ssize_t kArgumentsOnStack = 16;
// A transaction that has lost this often asks for a turn, for as long as it takes, within bounds:
// a process that is stopped during its turn holds up all others until the turn is over.
constexpr std::uint32_t kExecutionsBeforeTurn = 4;
constexpr std::uint64_t kTurnsPerExecution = 3;
constexpr std::uint64_t kTurnNsMin = 1'000'000;
constexpr std::uint64_t kTurnNsMax = 1'000'000'000;

Imported exhausted_error{"theus.errors", "_exhausted"};
Imported partial_type{"functools", "partial"};

EngineObject* as_engine(PyObject* self) { return reinterpret_cast<EngineObject*>(self); }

// Lets go of a parent's session, after a fork. Views that are inherited go on holding it.
void forget_parent(EngineObject* engine) {
  engine->first_open = nullptr;
  engine->spare.clear();
  engine->newest.reset();
  engine->attached.reset();
}

void detach(EngineObject* engine) {
  if (engine->attached && engine->attached->session.forked()) {
    forget_parent(engine);
    return;
  }
  for (ContextObject* open = engine->first_open; open != nullptr; open = open->next_open) {
    if (is_busy(open)) {
      raise(ErrorClass::kTheus,
            "the engine cannot be closed while a transaction of thread %lu commits or waits for "
            "the arbitration lock; join that thread first",
            open->thread);
    }
  }
  while (engine->first_open != nullptr) end_context(engine->first_open, Status::kClosed);
  engine->spare.clear();
  engine->newest.reset();
  AttachedPtr last = std::move(engine->attached);
  // Detaching may wait for the arbitration lock.
  PyThreadState* saved = PyEval_SaveThread();
  last.reset();
  PyEval_RestoreThread(saved);
}

// ------------------------------------------------------------------------------ life

PyObject* engine_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  EngineObject* engine = as_engine(self);
  new (&engine->attached) AttachedPtr();
  new (&engine->spare) std::vector<std::unique_ptr<TransactionHolder>>();
  new (&engine->newest) std::weak_ptr<PinnedSnapshot>();
  return self;
}

int engine_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return 0;
}

void engine_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  EngineObject* engine = as_engine(self);
  PyObject_GC_UnTrack(self);
  try {
    detach(engine);
  } catch (const PythonError&) {
    PyErr_WriteUnraisable(nullptr);
  }
  engine->attached.~AttachedPtr();
  engine->spare.~vector();
  engine->newest.~weak_ptr();
  type->tp_free(self);
  Py_DECREF(type);
}

// ------------------------------------------------------------------------------ methods

PyObject* attach_method(PyObject* self, PyObject* name) {
  return guarded([&] {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(name, &size);
    if (text == nullptr) throw PythonError{};
    EngineObject* engine = as_engine(self);
    if (engine->attached && engine->attached->session.forked()) forget_parent(engine);
    if (engine->attached) return Ref::borrow(Py_None).release();
    std::string wanted(text, static_cast<std::size_t>(size));
    AttachedPtr fresh;
    PyThreadState* saved = PyEval_SaveThread();
    try {
      fresh = std::make_shared<Attached>(worker::attach(wanted));
    } catch (...) {
      PyEval_RestoreThread(saved);
      throw;
    }
    PyEval_RestoreThread(saved);
    // Another thread may have been faster; then this attachment is given back.
    if (!engine->attached) engine->attached = std::move(fresh);
    return Ref::borrow(Py_None).release();
  });
}

PyObject* detach_method(PyObject* self, PyObject*) {
  return guarded([&] {
    detach(as_engine(self));
    return Ref::borrow(Py_None).release();
  });
}

worker::Isolation parse_isolation(PyObject* text) {
  if (PyUnicode_Check(text)) {
    if (PyUnicode_CompareWithASCIIString(text, "serializable") == 0) {
      return worker::Isolation::kSerializable;
    }
    if (PyUnicode_CompareWithASCIIString(text, "snapshot") == 0) {
      return worker::Isolation::kSnapshot;
    }
  }
  raise(PyExc_ValueError, "isolation is 'serializable' or 'snapshot', not %R", text);
}

PyObject* transaction_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                             PyObject* names) {
  return guarded([&] {
    worker::Isolation isolation = worker::Isolation::kSerializable;
    PyObject* label = nullptr;
    if (count > 0) isolation = parse_isolation(arguments[0]);
    if (count > 1) label = arguments[1];
    if (count > 2) raise(PyExc_TypeError, "transaction(isolation='serializable', label=None)");
    for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i) {
      PyObject* name = PyTuple_GET_ITEM(names, i);
      if (PyUnicode_CompareWithASCIIString(name, "isolation") == 0) {
        isolation = parse_isolation(arguments[count + i]);
      } else if (PyUnicode_CompareWithASCIIString(name, "label") == 0) {
        label = arguments[count + i];
      } else {
        raise(PyExc_TypeError, "transaction() got an unexpected keyword argument %R", name);
      }
    }
    if (label == Py_None) label = nullptr;
    return make_transaction_guard(as_engine(self), isolation, label).release();
  });
}

PyObject* snapshot_method(PyObject* self, PyObject*) {
  return guarded([&] { return make_snapshot_guard(as_engine(self)).release(); });
}

PyObject* state_root_method(PyObject* self, PyObject*) {
  return guarded([&] {
    ContextObject* context = open_snapshot(as_engine(self), true);
    Ref owner = Ref::steal(reinterpret_cast<PyObject*>(context));
    Ref root = make_root_proxy(context);
    Ref version = Ref::check(PyLong_FromUnsignedLongLong(context->version));
    return Ref::check(PyTuple_Pack(2, root.get(), version.get())).release();
  });
}

PyObject* stats_method(PyObject* self, PyObject*) {
  return guarded([&] {
    worker::Session& session = attached_session(as_engine(self))->session;
    worker::Session::Stats stats = session.stats();
    struct {
      const char* name;
      std::uint64_t value;
    } const items[] = {
        {"version", stats.version},
        {"commits", stats.commits},
        {"read_only", stats.read_only},
        {"conflicts", stats.conflicts},
        {"rollbacks", stats.rollbacks},
        {"capacity_bytes", stats.capacity_bytes},
        {"used_bytes", stats.used_bytes},
        {"free_bytes", stats.free_bytes},
        {"keys", stats.keys},
        {"workers", stats.workers},
        {"oldest_pin", stats.oldest_pin},
        {"slot", session.slot()},
        {"coordinator_pid", session.coordinator_pid()},
        {"supervisor_pid", session.supervisor_pid()},
    };
    Ref result = Ref::check(PyDict_New());
    for (const auto& item : items) {
      Ref number = Ref::check(PyLong_FromUnsignedLongLong(item.value));
      check(PyDict_SetItemString(result.get(), item.name, number.get()));
    }
    return result.release();
  });
}

PyObject* get_version(PyObject* self, void*) {
  return guarded([&] {
    std::uint64_t version = attached_session(as_engine(self))->session.version();
    return Ref::check(PyLong_FromUnsignedLongLong(version)).release();
  });
}

PyObject* get_attached(PyObject* self, void*) {
  const EngineObject* engine = as_engine(self);
  return PyBool_FromLong(engine->attached && !engine->attached->session.forked());
}

// ------------------------------------------------------------------------------ run

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void claim_turn(EngineObject* engine, std::uint64_t execution_ns) {
  std::uint64_t turn = std::clamp(execution_ns * kTurnsPerExecution, kTurnNsMin, kTurnNsMax);
  AttachedPtr attached = attached_session(engine);  // no matter who closes the engine meanwhile
  attached->session.claim_turn(turn);
}

// For attempts(): the same for a loop in Python, given the seconds of one execution.
PyObject* claim_turn_method(PyObject* self, PyObject* seconds) {
  return guarded([&] {
    double duration = PyFloat_AsDouble(seconds);
    if (duration == -1.0 && PyErr_Occurred() != nullptr) throw PythonError{};
    claim_turn(as_engine(self), static_cast<std::uint64_t>(std::max(duration, 0.0) * 1e9));
    return Ref::borrow(Py_None).release();
  });
}

[[noreturn]] void refuse_function(PyObject* function) {
  raise(PyExc_TypeError,
        "%R is a coroutine or generator function: it would run after its transaction had ended; "
        "pass an ordinary function",
        function);
}

// A body that would only begin to run after run() returned is refused.
void check_function(PyObject* function) {
  PyObject* at = function;
  Ref keeper;
  while (!PyFunction_Check(at)) {
    if (PyMethod_Check(at)) {
      at = PyMethod_GET_FUNCTION(at);
    } else if (reinterpret_cast<PyObject*>(Py_TYPE(at)) == partial_type.get()) {
      keeper = Ref::check(PyObject_GetAttrString(at, "func"));
      at = keeper.get();
    } else {
      if (PyCallable_Check(at) == 0) raise(PyExc_TypeError, "%R is not callable", function);
      return;  // its result is looked at instead
    }
  }
  int flags = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(at))->co_flags;
  if ((flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)) != 0) refuse_function(function);
}

void check_result(PyObject* function, PyObject* result) {
  if (PyGen_CheckExact(result) || PyCoro_CheckExact(result) || PyAsyncGen_CheckExact(result)) {
    // Python would warn that it was never awaited.
    if (PyCoro_CheckExact(result)) Ref::check(PyObject_CallMethod(result, "close", nullptr));
    refuse_function(function);
  }
}

void pause(std::uint64_t nanoseconds) {
  PyThreadState* saved = PyEval_SaveThread();
  if (nanoseconds == 0) {
    sched_yield();
  } else {
    timespec time{static_cast<time_t>(nanoseconds / 1'000'000'000),
                  static_cast<long>(nanoseconds % 1'000'000'000)};
    nanosleep(&time, nullptr);
  }
  PyEval_RestoreThread(saved);
  check(PyErr_CheckSignals());
}

// The arguments of run() without its own keywords, with room for the context in front.
struct Call {
  PyObject* small[kArgumentsOnStack + 1];
  std::vector<PyObject*> large;
  PyObject** all = small;
  Py_ssize_t positional = 0;
  Ref names;
  std::uint32_t retries = kRetriesDefault;
};

std::uint32_t parse_retries(PyObject* object) {
  long retries = PyLong_AsLong(object);
  if (retries == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (retries < 0) raise(PyExc_ValueError, "retries is 0 or more, not %ld", retries);
  return static_cast<std::uint32_t>(retries);
}

void check_timeout(PyObject* object) {
  // It bounds the sleep of ctx.retry(), which this version does not have: only checked.
  if (object == Py_None) return;
  double seconds = PyFloat_AsDouble(object);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (!(seconds >= 0)) raise(PyExc_ValueError, "timeout is None or 0 or more seconds");
}

void prepare(Call* call, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  Py_ssize_t named = names != nullptr ? PyTuple_GET_SIZE(names) : 0;
  if (count + named > kArgumentsOnStack) {
    call->large.resize(static_cast<std::size_t>(count + named) + 1);
    call->all = call->large.data();
  }
  // all[0] is the context; arguments[0] is the function.
  for (Py_ssize_t i = 1; i < count; ++i) call->all[i] = arguments[i];
  call->positional = count;
  if (named == 0) return;
  Ref kept = Ref::check(PyList_New(0));
  Py_ssize_t next = count;
  for (Py_ssize_t i = 0; i < named; ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    PyObject* value = arguments[count + i];
    if (PyUnicode_CompareWithASCIIString(name, "retries") == 0) {
      call->retries = parse_retries(value);
    } else if (PyUnicode_CompareWithASCIIString(name, "timeout") == 0) {
      check_timeout(value);
    } else {
      check(PyList_Append(kept.get(), name));
      call->all[next++] = value;
    }
  }
  if (PyList_GET_SIZE(kept.get()) > 0) call->names = Ref::check(PyList_AsTuple(kept.get()));
}

// One execution. Null: it met a conflict, which is in *conflict if `last`.
Ref execute(EngineObject* engine, PyObject* function, Call* call, bool last, Ref* conflict) {
  ContextObject* context = open_transaction(engine, worker::Isolation::kSerializable, nullptr);
  Ref owner = Ref::steal(reinterpret_cast<PyObject*>(context));
  call->all[0] = owner.get();
  Ref result;
  try {
    result = Ref::check(PyObject_Vectorcall(
        function, call->all, static_cast<std::size_t>(call->positional), call->names.get()));
    check_result(function, result.get());
    if (context->status == Status::kOpen) result = plain_result(result.get());
  } catch (...) {
    end_context(context, Status::kRolledBack);
    throw;
  }
  if (context->status == Status::kRolledBack) return result;  // by ctx.transaction.rollback()
  if (context->status != Status::kOpen) {
    raise(ErrorClass::kTheus, "the engine was closed inside of this transaction");
  }
  if (is_forked(context)) {
    end_context(context, Status::kClosed);
    raise(ErrorClass::kTheus,
          "the function of run() returned in a forked child; the transaction is the parent's, and "
          "the child must not return from it (use os._exit)");
  }
  CommitOutcome outcome = commit_context(context, last);
  if (outcome.committed) return result;
  *conflict = std::move(outcome.conflict);
  return Ref();
}

PyObject* run_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                     PyObject* names) {
  return guarded([&] {
    if (count < 1) raise(PyExc_TypeError, "run(fn, *args, retries=16, **kw)");
    PyObject* function = arguments[0];
    check_function(function);
    Call call;
    prepare(&call, arguments, count, names);
    worker::Retry retry(call.retries, reinterpret_cast<std::uintptr_t>(&call) ^
                                          (attached_session(as_engine(self))->session.slot() *
                                           0x9E3779B97F4A7C15ull));
    for (;;) {
      bool last = retry.executions() > call.retries;
      bool losing = retry.executions() + 1 >= kExecutionsBeforeTurn;
      std::uint64_t started_ns = losing ? monotonic_ns() : 0;
      Ref conflict;
      Ref result = execute(as_engine(self), function, &call, last, &conflict);
      if (result) return result.release();
      std::uint64_t pause_ns = 0;
      if (!retry.again(&pause_ns)) {
        Ref executions = Ref::check(PyLong_FromUnsignedLong(retry.executions()));
        Ref error = bindings::call(exhausted_error.get(), executions.get(), conflict.get());
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
        throw PythonError{};
      }
      if (losing) {
        claim_turn(as_engine(self), monotonic_ns() - started_ns);
      } else {
        pause(pause_ns);
      }
    }
  });
}

PyCFunction fast_named(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"_attach", attach_method, METH_O, nullptr},
    {"_detach", detach_method, METH_NOARGS, nullptr},
    {"_claim_turn", claim_turn_method, METH_O, nullptr},
    {"_state_root", state_root_method, METH_NOARGS, nullptr},
    {"stats", stats_method, METH_NOARGS,
     "Returns counters of this process and of the shared state (sizes in bytes), as a dict."},
    {"transaction", fast_named(transaction_method), METH_FASTCALL | METH_KEYWORDS,
     "transaction(isolation='serializable', label=None)\n--\n\n"
     "Returns a ContextGuard for one `with`: leaving it commits, an exception rolls back. Raises "
     "ConflictError there when another process was faster."},
    {"snapshot", snapshot_method, METH_NOARGS,
     "Returns a ContextGuard for one `with` that reads the newest version: no conflicts, no "
     "waiting; a write raises ReadOnlyError."},
    {"run", fast_named(run_method), METH_FASTCALL | METH_KEYWORDS,
     "run(fn, *args, retries=16, **kw)\n--\n\n"
     "Runs fn(ctx, *args, **kw) in a transaction, again after each conflict, at most retries + 1 "
     "times; returns what fn returned, as plain objects. Raises RetriesExhausted."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"version", get_version, nullptr, "Number of the newest committed version.", nullptr},
    {"_attached", get_attached, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

}  // namespace

AttachedPtr& attached_session(EngineObject* engine) {
  if (engine->attached && !engine->attached->session.forked()) return engine->attached;
  if (engine->attached) forget_parent(engine);
  auto* self = reinterpret_cast<PyObject*>(engine);
  Ref::check(PyObject_CallMethod(self, "_reattach", nullptr));
  if (!engine->attached) raise(ErrorClass::kTheus, "this engine is closed");
  return engine->attached;
}

std::unique_ptr<TransactionHolder> take_transaction(EngineObject* engine) {
  if (engine->spare.empty()) return std::make_unique<TransactionHolder>(engine->attached);
  std::unique_ptr<TransactionHolder> holder = std::move(engine->spare.back());
  engine->spare.pop_back();
  return holder;
}

void give_transaction(EngineObject* engine, std::unique_ptr<TransactionHolder> holder) {
  holder->log.clear();
  if (engine->attached == holder->attached && engine->spare.size() < kSpareMax) {
    engine->spare.push_back(std::move(holder));
  }
}

void make_engine_type(PyObject* module) {
  static PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(engine_new)},
      {Py_tp_dealloc, reinterpret_cast<void*>(engine_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(engine_traverse)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {0, nullptr},
  };
  static PyType_Spec spec = {"theus._theus.EngineCore", sizeof(EngineObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, slots};
  Ref type = Ref::check(PyType_FromSpec(&spec));
  check(PyObject_SetAttrString(module, "EngineCore", type.get()));
}

}  // namespace theus::bindings
