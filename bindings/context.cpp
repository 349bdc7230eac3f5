#include "bindings/context.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#include "bindings/errors.h"
#include "bindings/free_list.h"
#include "bindings/key_codec.h"
#include "bindings/leaf.h"
#include "bindings/merging.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/represent.h"
#include "bindings/view.h"

namespace theus::bindings {

PyTypeObject* context_type = nullptr;
unsigned long fork_count = 0;

void count_forks() {
  pthread_atfork(nullptr, nullptr, [] { ++fork_count; });
}

namespace {

// A thread that runs an event loop holds up all of its tasks while it waits.
constexpr std::uint64_t kPatienceOfTasksNs = 20'000'000;

FreeList<ContextObject> free_contexts;
Imported conflict_error{"theus.errors", "_conflict"};

// The asyncio event loop that runs in this thread, or None. Costs one dict lookup in programs that
// do not use asyncio.
Ref running_loop() {
  static PyObject* module_name = PyUnicode_InternFromString("asyncio.tasks");
  PyObject* module = PyDict_GetItemWithError(PyImport_GetModuleDict(), module_name);
  if (module == nullptr) return Ref::borrow(Py_None);
  static Imported get_loop{"asyncio", "_get_running_loop"};
  try {
    get_loop.get();
  } catch (const PythonError&) {
    PyErr_Clear();  // another thread is importing asyncio at this moment: no loop runs yet
    return Ref::borrow(Py_None);
  }
  return call(get_loop.get());
}

// The asyncio task that is running in this thread, or null.
Ref running_task() {
  static Imported current_task{"asyncio", "current_task"};
  const Ref loop = running_loop();
  if (loop.get() == Py_None) return Ref();
  Ref task = call(current_task.get(), loop.get());
  return task.get() == Py_None ? Ref() : task;
}

void link(ContextObject* context) {
  EngineObject* engine = context->engine;
  context->next_open = engine->first_open;
  if (engine->first_open != nullptr) engine->first_open->previous_open = context;
  engine->first_open = context;
}

void unlink(ContextObject* context) {
  EngineObject* engine = context->engine;
  if (context->next_open != nullptr) context->next_open->previous_open = context->previous_open;
  if (context->previous_open != nullptr) {
    context->previous_open->next_open = context->next_open;
  } else if (engine->first_open == context) {
    engine->first_open = context->next_open;
  }
  context->next_open = context->previous_open = nullptr;
}

// Whether a transaction on the engine is open in this thread and `task`.
bool is_inside(EngineObject* engine, PyObject* task) {
  unsigned long thread = PyThread_get_thread_ident();
  for (ContextObject* open = engine->first_open; open != nullptr; open = open->next_open) {
    if (open->thread == thread && open->task == task) return true;
  }
  return false;
}

void check_not_nested(EngineObject* engine, PyObject* task) {
  if (is_inside(engine, task)) {
    raise(ErrorClass::kTheus,
          "a transaction on this engine is already open here: pass ctx on instead of opening "
          "another (engine.snapshot() and engine.state are allowed)");
  }
}

ContextObject* new_context(EngineObject* engine) {
  ContextObject* context = free_contexts.take(context_type);
  Py_INCREF(engine);
  context->engine = engine;
  context->status = Status::kClosed;  // until it is complete
  context->fork_count = fork_count;
  context->forgets = false;
  return context;
}

Ref path_of_mapping(const worker::Mapping* mapping) {
  Ref keys = Ref::check(PyList_New(0));
  for (const worker::Entry* at = mapping->bound_at; at != nullptr; at = at->mapping->bound_at) {
    check(PyList_Append(keys.get(), decode_key(at->key).get()));
  }
  check(PyList_Reverse(keys.get()));
  return Ref::check(PyList_AsTuple(keys.get()));
}

Ref describe_conflict_of(const ContextObject* context, const worker::CommitResult& result) {
  Ref path = Ref::borrow(Py_None);
  bool keys_changed = false;
  if (result.conflict != nullptr) {
    path = path_below(path_of_mapping(result.conflict->mapping).get(),
                      decode_key(result.conflict->key).get());
  } else if (result.conflict_mapping != nullptr) {
    path = path_of_mapping(result.conflict_mapping);
    keys_changed = true;
  }
  Ref spelled = path.get() == Py_None ? path : spell_path(path.get());
  Ref pid = Ref::check(PyLong_FromUnsignedLong(result.winner_pid));
  Ref winner = Ref::check(PyLong_FromUnsignedLongLong(result.winner_version));
  Ref snapshot = Ref::check(PyLong_FromUnsignedLongLong(context->version));
  return call(conflict_error.get(), spelled.get(), pid.get(), winner.get(), snapshot.get(),
              keys_changed ? Py_True : Py_False, result.gave_way ? Py_True : Py_False);
}

// Others run meanwhile: the engine may be another's, or nobody's, afterwards.
void claim_turn(EngineObject* engine, TransactionHolder* holder, worker::TurnWish wish) {
  // Also in a callback of the loop, which is no task.
  const bool in_loop = running_loop().get() != Py_None;
  if (in_loop) wish.patience_ns = std::min(wish.patience_ns, kPatienceOfTasksNs);
  holder->transaction.claim_turn(std::move(wish));
  if (attached_session(engine) != holder->attached) {
    raise(ErrorClass::kTheus, "the engine was closed before this transaction could begin");
  }
}

void end_unused(ContextObject* context, Status status) noexcept;

}  // namespace

void run_callbacks(const Ref& callbacks) {
  for (Py_ssize_t i = 0; callbacks && i < PyList_GET_SIZE(callbacks.get()); ++i) {
    PyObject* callback = PyList_GET_ITEM(callbacks.get(), i);
    PyObject* result = PyObject_CallNoArgs(callback);
    // The commit has been acknowledged: an error here must not look as if it had failed.
    if (result == nullptr) PyErr_WriteUnraisable(callback);
    Py_XDECREF(result);
  }
}

void check_outside(EngineObject* engine, PyObject* what) {
  attached_session(engine);
  if (engine->first_open != nullptr && is_inside(engine, running_task().get())) {
    raise(ErrorClass::kTheus,
          "%U inside of a transaction on the same engine: pass ctx on instead, or leave the "
          "transaction first (what it reads does not change while it is open)",
          what);
  }
}

bool is_forked(const ContextObject* context) {
  if (context->fork_count != fork_count) return true;
  if (context->holder != nullptr) return context->holder->attached->session.forked();
  return context->pinned != nullptr && (*context->pinned)->attached->session.forked();
}

bool is_busy(const ContextObject* context) {
  return context->status == Status::kCommitting ||
         (context->holder != nullptr &&
          context->holder->attached->waits(context->thread, context->opening));
}

ContextObject* open_transaction(EngineObject* engine, worker::Isolation isolation, PyObject* label,
                                const worker::TurnWish* wish) {
  attached_session(engine);
  Ref task = running_task();
  if (engine->first_open != nullptr) check_not_nested(engine, task.get());
  std::unique_ptr<TransactionHolder> holder = take_transaction(engine);
  if (wish != nullptr) claim_turn(engine, holder.get(), *wish);
  holder->transaction.begin(isolation);
  ContextObject* context = nullptr;
  try {
    context = new_context(engine);
  } catch (...) {
    holder->transaction.rollback();
    throw;
  }
  context->holder = holder.release();
  context->root = context->holder->transaction.root();
  context->version = context->holder->transaction.snapshot_version();
  context->thread = PyThread_get_thread_ident();
  context->opening = context->holder->attached->next_opening();
  context->task = task.release();
  Py_XINCREF(label);
  context->label = label;
  context->serializable = isolation == worker::Isolation::kSerializable;
  context->status = Status::kOpen;
  link(context);
  PyObject_GC_Track(reinterpret_cast<PyObject*>(context));
  return context;
}

ContextObject* open_snapshot(EngineObject* engine, bool shared) {
  AttachedPtr& attached = attached_session(engine);
  PinnedPtr pinned;
  if (shared) {
    pinned = engine->newest.lock();
    bool newest = pinned && pinned->attached == attached &&
                  pinned->snapshot.version() == attached->session.version();
    if (!newest) pinned.reset();
  }
  if (!pinned) {
    pinned = std::make_shared<PinnedSnapshot>(attached);
    if (shared) engine->newest = pinned;
  }
  ContextObject* context = new_context(engine);
  context->pinned = new PinnedPtr(std::move(pinned));
  context->root_node = snapshot_of(context).root();
  context->version = snapshot_of(context).version();
  context->status = Status::kOpen;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(context));
  return context;
}

CommitOutcome commit_context(ContextObject* context, bool describe_conflict) {
  Ref self = Ref::borrow(reinterpret_cast<PyObject*>(context));
  if (context->doom != nullptr) {
    Ref doom = Ref::borrow(context->doom);
    end_context(context, Status::kFailed);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(doom.get())), doom.get());
    throw PythonError{};
  }
  CommitOutcome outcome;
  Status status = Status::kCommitted;
  try {
    if (context->leaves != nullptr) finish_leaves(context);
    context->status = Status::kCommitting;
    ContextMerger merger(context);
    worker::Transaction& transaction = transaction_of(context);
    worker::CommitResult result = transaction.commit(&merger, context->gives_way);
    context->status = Status::kOpen;
    outcome.committed = result.status != worker::CommitResult::Status::kConflict;
    if (outcome.committed) {
      context->committed = result.version;
    } else {
      status = Status::kConflicted;
      if (context->losing) {
        outcome.footprint = std::make_unique<worker::Footprint>(transaction.footprint());
      }
      if (describe_conflict) outcome.conflict = describe_conflict_of(context, result);
    }
  } catch (...) {
    context->status = Status::kOpen;
    end_context(context, Status::kFailed);
    throw;
  }
  Ref callbacks = Ref::steal(std::exchange(context->callbacks, nullptr));
  end_context(context, status);
  if (outcome.committed) outcome.callbacks = std::move(callbacks);
  return outcome;
}

void end_context(ContextObject* context, Status status) noexcept {
  if (!is_busy(context)) end_unused(context, status);
}

namespace {

void end_unused(ContextObject* context, Status status) noexcept {
  if (context->status != Status::kOpen) return;
  context->status = status;
  bool forked = is_forked(context);
  if (context->holder != nullptr) {
    if (!forked) unlink(context);
    std::unique_ptr<TransactionHolder> holder(std::exchange(context->holder, nullptr));
    if (!forked) {
      try {
        if (holder->transaction.open()) holder->transaction.rollback();
        give_transaction(context->engine, std::move(holder));
      } catch (const std::exception&) {
        // Giving up what is over anyway: the engine takes it back when the process is gone.
        static_cast<void>(holder.release());
      }
    }
    context->root = nullptr;
  }
  if (context->pinned != nullptr) {
    delete std::exchange(context->pinned, nullptr);
  }
  if (context->leaves != nullptr || context->callbacks != nullptr || context->task != nullptr ||
      context->doom != nullptr) {
    ErrorKeeper keeper;  // the objects' destructors may run any code
    if (context->leaves != nullptr) {
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(context->leaves); ++i) {
        reinterpret_cast<LeafObject*>(PyList_GET_ITEM(context->leaves, i))->entry = nullptr;
      }
    }
    Py_CLEAR(context->leaves);
    Py_CLEAR(context->callbacks);
    Py_CLEAR(context->task);
    Py_CLEAR(context->doom);
  }
}

}  // namespace

void doom_context(ContextObject* context, PyObject* error) {
  if (context->doom != nullptr) return;
  Py_INCREF(error);
  context->doom = error;
}

bool take_over(ContextObject* context) {
  if (context->status != Status::kOpen || context->fork_count == fork_count ||
      context->pinned == nullptr || !(*context->pinned)->attached->session.keeps_views()) {
    return false;
  }
  context->fork_count = fork_count;
  return true;
}

void raise_unusable(ContextObject* context, PyObject* path) {
  static constexpr const char* kHow[] = {
      "open",        "being committed", "committed", "rejected by a conflict",
      "rolled back", "failed",          "closed"};
  Ref where = path_text(path);
  if (context->status != Status::kOpen) {
    raise(ErrorClass::kTheus,
          "%U: its transaction or snapshot has ended (%s); use it inside of the `with`, or take a "
          "copy there with theus.plain(...)",
          where.get(), kHow[static_cast<int>(context->status)]);
  }
  if (is_forked(context) && context->pinned != nullptr) {
    raise(ErrorClass::kTheus,
          "%U: its snapshot belongs to the parent of this forked process (pid %d) and could not be "
          "kept for this one: no spare slot was to be had at the fork; open a new one here",
          where.get(), static_cast<int>(getpid()));
  }
  if (is_forked(context)) {
    raise(ErrorClass::kTheus,
          "%U: its transaction or snapshot belongs to the parent of this forked process (pid %d); "
          "open a new one here",
          where.get(), static_cast<int>(getpid()));
  }
  if (context->thread == kHandedOver) {
    raise(ErrorClass::kTheus, "%U: its transaction is being committed", where.get());
  }
  raise(ErrorClass::kTheus,
        "%U: its transaction was opened in thread %lu and is used in thread %lu; open one in each "
        "thread",
        where.get(), context->thread, PyThread_get_thread_ident());
}

Ref path_of(PyObject* owner) {
  Ref keys = Ref::check(PyList_New(0));
  PyObject* at = owner;
  while (at != nullptr && is_proxy(at)) {
    const ProxyObject* proxy = as_proxy(at);
    if (proxy->key != nullptr) check(PyList_Append(keys.get(), proxy->key));
    at = proxy->parent;
  }
  check(PyList_Reverse(keys.get()));
  return Ref::check(PyList_AsTuple(keys.get()));
}

// ------------------------------------------------------------------------------ life

namespace {

ContextObject* as_context(PyObject* self) { return reinterpret_cast<ContextObject*>(self); }

int context_traverse(PyObject* self, visitproc visit, void* arg) {
  const ContextObject* context = as_context(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(reinterpret_cast<PyObject*>(context->engine));
  Py_VISIT(context->task);
  Py_VISIT(context->leaves);
  Py_VISIT(context->callbacks);
  Py_VISIT(context->doom);
  Py_VISIT(context->label);
  return 0;
}

int context_clear(PyObject* self) {
  ContextObject* context = as_context(self);
  // Whatever its thread waits for, it is nothing of this one: then it would be reachable.
  end_unused(context, Status::kRolledBack);
  Py_CLEAR(context->engine);
  Py_CLEAR(context->label);
  return 0;
}

void context_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  context_clear(self);
  free_contexts.give(as_context(self));
}

}  // namespace

extern PyMethodDef* context_methods();
extern PyGetSetDef context_attributes[];

void make_context_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(context_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(context_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(context_clear)},
      {Py_tp_getattro, reinterpret_cast<void*>(node_get_attribute)},
      {Py_tp_setattro, reinterpret_cast<void*>(node_set_attribute)},
      {Py_mp_subscript, reinterpret_cast<void*>(node_subscript)},
      {Py_mp_ass_subscript, reinterpret_cast<void*>(node_assign)},
      {Py_mp_length, reinterpret_cast<void*>(node_length)},
      {Py_sq_contains, reinterpret_cast<void*>(node_contains)},
      {Py_nb_or, reinterpret_cast<void*>(node_or)},
      {Py_nb_inplace_or, reinterpret_cast<void*>(node_inplace_or)},
      {Py_tp_iter, reinterpret_cast<void*>(+[](PyObject* self) -> PyObject* {
         return guarded([&] { return make_node_iterator(self, IteratorMode::kKeys).release(); });
       })},
      {Py_tp_hash, reinterpret_cast<void*>(PyObject_HashNotImplemented)},
      {Py_tp_richcompare, reinterpret_cast<void*>(node_compare)},
      {Py_tp_repr, reinterpret_cast<void*>(context_represent)},
      {Py_tp_methods, context_methods()},
      {Py_tp_getset, context_attributes},
      {Py_tp_doc, const_cast<char*>(
                      "The root of the state inside of a transaction or a snapshot.\n\nUse it in "
                      "the thread that opened the transaction, and not after its end.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus.ProcessContext", sizeof(ContextObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  context_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

}  // namespace theus::bindings
