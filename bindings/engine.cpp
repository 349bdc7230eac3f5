#include "bindings/engine.h"

#include <algorithm>
#include <new>

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/guard.h"
#include "bindings/proxy.h"
#include "bindings/run.h"
#include "worker/connection.h"

namespace theus::bindings {
namespace {

constexpr std::size_t kSpareMax = 8;

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
  while (engine->first_open != nullptr) {
    // Anew each time: ending one may wait for the lock, and another may begin to commit meanwhile.
    for (ContextObject* open = engine->first_open; open != nullptr; open = open->next_open) {
      if (is_busy(open)) {
        raise(ErrorClass::kTheus,
              "the engine cannot be closed while a transaction of thread %lu commits or waits for "
              "the arbitration lock; join that thread first",
              open->thread);
      }
    }
    end_context(engine->first_open, Status::kClosed);
  }
  engine->spare.clear();
  engine->newest.reset();
  AttachedPtr last = std::move(engine->attached);
  // Detaching may wait for the arbitration lock.
  PyThreadState* saved = PyEval_SaveThread();
  last.reset();
  take_gil(saved);
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
      take_gil(saved);
      throw;
    }
    take_gil(saved);
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
    if (count > 0) {
      raise(PyExc_TypeError,
            "transaction() takes keywords only: isolation='serializable', "
            "label=None");
    }
    for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i) {
      PyObject* name = PyTuple_GET_ITEM(names, i);
      if (PyUnicode_CompareWithASCIIString(name, "isolation") == 0) {
        isolation = parse_isolation(arguments[i]);
      } else if (PyUnicode_CompareWithASCIIString(name, "label") == 0) {
        label = arguments[i];
      } else {
        raise(PyExc_TypeError, "transaction() got an unexpected keyword argument %R", name);
      }
    }
    if (label == Py_None) label = nullptr;
    if (label != nullptr && !PyUnicode_Check(label)) {
      raise(PyExc_TypeError, "label is a str or None, not %.100s", Py_TYPE(label)->tp_name);
    }
    return make_transaction_guard(as_engine(self), isolation, label).release();
  });
}

// _attempt(losses, turns, longest_s, gives_way, previous): what the loop has seen so far
// (losses.h), whether it gives way to a turn of its own thread, and the guard of the attempt
// before, or None.
PyObject* attempt_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 5) raise(PyExc_TypeError, "_attempt() takes five arguments");
    Losses losses;
    losses.count = static_cast<std::uint32_t>(PyLong_AsUnsignedLongMask(arguments[0]));
    losses.turns = static_cast<std::uint32_t>(PyLong_AsUnsignedLongMask(arguments[1]));
    const double longest_s = PyFloat_AsDouble(arguments[2]);
    if (PyErr_Occurred() != nullptr) throw PythonError{};
    losses.longest_ns = static_cast<std::uint64_t>(std::clamp(longest_s, 0.0, 1e3) * 1e9);
    return make_attempt_guard(as_engine(self), losses, arguments[3] == Py_True, arguments[4])
        .release();
  });
}

PyObject* check_outside_method(PyObject* self, PyObject* what) {
  return guarded([&] {
    check_outside(as_engine(self), what);
    return Ref::borrow(Py_None).release();
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

// The newest version, or None where there is no session yet: it never attaches.
PyObject* get_version_if_attached(PyObject* self, void*) {
  return guarded([&] {
    const EngineObject* engine = as_engine(self);
    if (!engine->attached || engine->attached->session.forked()) {
      return Ref::borrow(Py_None).release();
    }
    std::uint64_t version = engine->attached->session.version();
    return Ref::check(PyLong_FromUnsignedLongLong(version)).release();
  });
}

PyObject* get_attached(PyObject* self, void*) {
  const EngineObject* engine = as_engine(self);
  return PyBool_FromLong(engine->attached && !engine->attached->session.forked());
}

PyCFunction fast_named(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"_attach", attach_method, METH_O, nullptr},
    {"_detach", detach_method, METH_NOARGS, nullptr},
    {"_state_root", state_root_method, METH_NOARGS, nullptr},
    {"_attempt", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(attempt_method)),
     METH_FASTCALL, nullptr},
    {"_check_outside", check_outside_method, METH_O, nullptr},
    {"_run_once", fast_named(run_once_method), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"stats", stats_method, METH_NOARGS,
     "stats($self, /)\n--\n\n"
     "Returns counters of this process and of the shared state (sizes in bytes), as a dict."},
    {"transaction", fast_named(transaction_method), METH_FASTCALL | METH_KEYWORDS,
     "transaction($self, /, *, isolation='serializable', label=None)\n--\n\n"
     "Returns a ContextGuard for one `with`: leaving it commits, an exception rolls back. Raises "
     "ConflictError there when another process was faster."},
    {"snapshot", snapshot_method, METH_NOARGS,
     "snapshot($self, /)\n--\n\n"
     "Returns a ContextGuard for one `with` that reads the newest version: no conflicts, no "
     "waiting; a write raises ReadOnlyError."},
    {"run", fast_named(run_method), METH_FASTCALL | METH_KEYWORDS,
     "run($self, fn, /, *args, retries=16, timeout=None, **kw)\n--\n\n"
     "Runs fn(ctx, *args, **kw) in a transaction, again after each conflict, at most retries + 1 "
     "times; returns what fn returned, as plain objects. After ctx.retry() it sleeps until "
     "something that fn has read changes, and counts anew. timeout: seconds from the call on, "
     "after which it does not sleep any longer; None: for ever. Raises RetriesExhausted."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"version", get_version, nullptr, "Number of the newest committed version.", nullptr},
    {"_version_if_attached", get_version_if_attached, nullptr, nullptr, nullptr},
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
  holder->operations.clear();
  if (engine->attached == holder->attached && engine->spare.size() < kSpareMax) {
    engine->spare.push_back(std::move(holder));
  }
}

PyTypeObject* engine_type = nullptr;

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
  auto* type = Ref::check(PyType_FromSpec(&spec)).release();
  engine_type = reinterpret_cast<PyTypeObject*>(type);
  check(PyObject_SetAttrString(module, "EngineCore", type));
}

}  // namespace theus::bindings
