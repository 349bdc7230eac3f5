#include "bindings/run.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/context.h"
#include "bindings/engine.h"
#include "bindings/errors.h"
#include "bindings/losses.h"
#include "bindings/proxy.h"
#include "bindings/waiting.h"
#include "worker/retry.h"

namespace theus::bindings {
namespace {

constexpr std::uint32_t kRetriesDefault = 16;
constexpr Py_ssize_t kArgumentsOnStack = 16;

Imported exhausted_error{"theus.errors", "_exhausted"};
Imported sleep_until_changed{"theus._waiting", "sleep_for_retry"};
Imported partial_type{"functools", "partial"};

EngineObject* as_engine(PyObject* self) { return reinterpret_cast<EngineObject*>(self); }

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
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
  take_gil(saved);
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
  double timeout_s = -1;          // below 0: none
  PyObject* cancelled = nullptr;  // a list, or null
};

std::uint32_t parse_retries(PyObject* object) {
  long retries = PyLong_AsLong(object);
  if (retries == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (retries < 0) raise(PyExc_ValueError, "retries is 0 or more, not %ld", retries);
  return static_cast<std::uint32_t>(retries);
}

double parse_timeout(PyObject* object) {
  if (object == Py_None) return -1;
  double seconds = PyFloat_AsDouble(object);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (!(seconds >= 0)) raise(PyExc_ValueError, "timeout is None or 0 or more seconds");
  return seconds;
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
      call->timeout_s = parse_timeout(value);
    } else {
      check(PyList_Append(kept.get(), name));
      call->all[next++] = value;
    }
  }
  if (PyList_GET_SIZE(kept.get()) > 0) call->names = Ref::check(PyList_AsTuple(kept.get()));
}

void check_cancelled(const Call& call) {
  if (call.cancelled != nullptr && PyList_GET_SIZE(call.cancelled) > 0) {
    raise(ErrorClass::kTheus, "run_async() was cancelled; nothing was written");
  }
}

// How one execution ended; all null: it met a conflict that is not the last. The result, or the
// ConflictError, or, after ctx.retry(), the Target.
struct Execution {
  Ref result, conflict, target;
  std::unique_ptr<worker::Footprint> footprint;
  std::uint64_t body_ns = 0;  // where it was timed
};

// After an exception: the Target if it is this context's own ctx.retry(), whose exception is then
// dropped, with everything that it keeps alive.
Ref take_retry(ContextObject* context) {
  if (context->doom == nullptr || PyErr_Occurred() == nullptr) return Ref();
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  Ref target = value != nullptr ? retry_target(context, value) : Ref();
  if (!target) {
    PyErr_Restore(type, value, traceback);
    return Ref();
  }
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return target;
}

// `wish`: for the turn; or null. `losing`: the next one may wish for it.
Execution execute(EngineObject* engine, PyObject* function, Call* call, bool last, bool losing,
                  const worker::TurnWish* wish) {
  check_cancelled(*call);
  Execution done;
  ContextObject* context =
      open_transaction(engine, worker::Isolation::kSerializable, nullptr, wish);
  const std::uint64_t started_ns = losing ? monotonic_ns() : 0;
  context->losing = losing;
  Ref owner = Ref::steal(reinterpret_cast<PyObject*>(context));
  context->may_retry = true;
  call->all[0] = owner.get();
  try {
    done.result = Ref::check(call_python([&] {
      return PyObject_Vectorcall(function, call->all, static_cast<std::size_t>(call->positional),
                                 call->names.get());
    }));
    check_result(function, done.result.get());
    if (context->status == Status::kOpen) done.result = plain_result(done.result.get());
  } catch (...) {
    done.target = take_retry(context);
    end_context(context, Status::kRolledBack);
    if (done.target) return done;
    throw;
  }
  if (context->status == Status::kRolledBack) return done;  // by ctx.transaction.rollback()
  if (context->status != Status::kOpen) {
    raise(ErrorClass::kTheus, "the engine was closed inside of this transaction");
  }
  if (is_forked(context)) {
    end_context(context, Status::kClosed);
    raise(ErrorClass::kTheus,
          "the function of run() returned in a forked child; the transaction is the parent's, and "
          "the child must not return from it (use os._exit)");
  }
  // A retry() whose exception the function has swallowed is a retry all the same.
  done.target = retry_target(context, nullptr);
  if (done.target) {
    end_context(context, Status::kRolledBack);
    done.result = Ref();
    return done;
  }
  try {
    check_cancelled(*call);
  } catch (...) {
    end_context(context, Status::kRolledBack);
    throw;
  }
  if (losing) done.body_ns = monotonic_ns() - started_ns;
  CommitOutcome outcome = commit_context(context, last);
  run_callbacks(outcome.callbacks);
  if (!outcome.committed) {
    done.result = Ref();
    done.conflict = std::move(outcome.conflict);
    done.footprint = std::move(outcome.footprint);
  }
  return done;
}

[[noreturn]] void raise_exhausted(std::uint32_t executions, PyObject* conflict) {
  Ref count = Ref::check(PyLong_FromUnsignedLong(executions));
  Ref error = call(exhausted_error.get(), count.get(), conflict);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  throw PythonError{};
}

// Executions up to a result or a ctx.retry(); *executions counts them.
Execution run_until_decided(EngineObject* engine, PyObject* function, Call* call,
                            std::uint32_t* executions) {
  worker::Retry retry(call->retries,
                      reinterpret_cast<std::uintptr_t>(call) ^
                          (attached_session(engine)->session.slot() * 0x9E3779B97F4A7C15ull));
  Losses losses;
  std::optional<worker::TurnWish> wish;
  for (;;) {
    bool last = retry.executions() > call->retries;
    ++*executions;
    Execution done =
        execute(engine, function, call, last, wants_turn_soon(losses), wish ? &*wish : nullptr);
    if (done.result || done.target) return done;
    std::uint64_t pause_ns = 0;
    if (!retry.again(&pause_ns)) raise_exhausted(*executions, done.conflict.get());
    ++losses.count;
    if (wish) ++losses.turns;
    losses.longest_ns = std::max(losses.longest_ns, done.body_ns);
    if (wants_turn(losses)) {
      wish = wish_for(losses, done.footprint.get());
    } else {
      pause(pause_ns);
    }
  }
}

}  // namespace

PyObject* run_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                     PyObject* names) {
  return guarded([&] {
    if (count < 1) raise(PyExc_TypeError, "run(fn, *args, retries=16, timeout=None, **kw)");
    PyObject* function = arguments[0];
    check_function(function);
    Call call;
    prepare(&call, arguments, count, names);
    Ref deadline = Ref::borrow(Py_None);
    if (call.timeout_s >= 0) {
      double now_s = static_cast<double>(monotonic_ns()) / 1e9;
      deadline = Ref::check(PyFloat_FromDouble(now_s + call.timeout_s));
    }
    std::uint32_t executions = 0;
    for (;;) {
      Execution done = run_until_decided(as_engine(self), function, &call, &executions);
      if (done.result) return done.result.release();
      Ref so_far = Ref::check(PyLong_FromUnsignedLong(executions));
      bindings::call(sleep_until_changed.get(), self, done.target.get(), deadline.get(),
                     so_far.get());
    }
  });
}

PyObject* run_once_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                          PyObject* names) {
  return guarded([&] {
    if (count < 2 || !PyList_Check(arguments[0])) {
      raise(PyExc_TypeError, "_run_once(cancelled, fn, *args, retries=16, **kw)");
    }
    PyObject* function = arguments[1];
    check_function(function);
    Call call;
    prepare(&call, arguments + 1, count - 1, names);
    call.cancelled = arguments[0];
    std::uint32_t executions = 0;
    Execution done = run_until_decided(as_engine(self), function, &call, &executions);
    Ref so_far = Ref::check(PyLong_FromUnsignedLong(executions));
    Ref pair = done.result ? Ref::check(PyTuple_Pack(2, Py_None, done.result.get()))
                           : Ref::check(PyTuple_Pack(2, done.target.get(), so_far.get()));
    return pair.release();
  });
}

}  // namespace theus::bindings
