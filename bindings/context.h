// ProcessContext: one open transaction or pinned snapshot, as Python sees it, and its life.
#pragma once

#include <cstdint>
#include <memory>

#include "bindings/attached.h"
#include "bindings/engine.h"
#include "bindings/ref.h"

namespace theus::bindings {

enum class Status : std::uint8_t {
  kOpen,
  kCommitting,  // in the engine's hands: used and ended by nobody else
  kCommitted,
  kConflicted,
  kRolledBack,
  kFailed,  // the commit raised
  kClosed,  // a snapshot that was left, or its engine closed
};

// Invariants: `holder` is set exactly while a transaction is open, `pinned` while a snapshot is.
// A context with a holder stands in its engine's list. Leaves in `leaves` point back without a
// reference cycle that outlives the end: end_context() empties the list.
struct ContextObject {
  PyObject_HEAD EngineObject* engine;  // strong
  TransactionHolder* holder;           // owned
  PinnedPtr* pinned;                   // owned
  worker::Mapping* root;               // of a transaction
  std::uint64_t root_node;             // of a snapshot
  std::uint64_t version;               // snapshot version
  std::uint64_t committed;  // version the commit made, or the snapshot's; set by the commit
  unsigned long thread;     // that may use it; 0: any
  std::uint64_t opening;    // of a transaction: Attached::next_opening
  PyObject* task;           // asyncio task it was opened in, or null
  PyObject* leaves;         // list of LeafObject, or null; of a snapshot, the newest few
  PyObject* callbacks;      // list, of on_commit; or null
  PyObject* transaction;    // TransactionObject, borrowed (it holds the context), or null
  PyObject* doom;           // exception that every commit raises, or null
  PyObject* label;          // str or null
  ContextObject* next_open;
  ContextObject* previous_open;
  unsigned long fork_count;  // when it was opened
  Status status;
  bool serializable;
  bool forgets;    // its leaves: nobody ends this snapshot, and they refer to it
  bool may_retry;  // ctx.retry() has somebody who runs it again
  bool losing;     // who runs it again wants to know its footprint
  bool gives_way;  // to a turn of its own thread
};

// `thread` of a context that waits for the thread which will commit it: nobody may use it.
inline constexpr unsigned long kHandedOver = ~0ul;
// Of one that another thread has ended: its own is told when it leaves the `with`.
inline constexpr unsigned long kLeftElsewhere = kHandedOver - 1;

extern PyTypeObject* context_type;
void make_context_type();

// New reference. `task` etc. are recorded; nested transactions raise. Throws PythonError. With a
// wish for the turn it may wait for that, with the GIL let go.
ContextObject* open_transaction(EngineObject* engine, worker::Isolation isolation, PyObject* label,
                                const worker::TurnWish* wish = nullptr);
// Raises TheusError when a transaction is open here; `what` (str) is what cannot be done inside.
void check_outside(EngineObject* engine, PyObject* what);
// A snapshot of the newest version, usable from any thread.
ContextObject* open_snapshot(EngineObject* engine, bool shared);

// How a commit went. A conflict: `conflict` is the ConflictError, not raised. Committed:
// `callbacks` is the list of on_commit functions, for the caller to run, or null.
struct CommitOutcome {
  bool committed = false;
  Ref conflict;
  Ref callbacks;
  std::unique_ptr<worker::Footprint> footprint;  // of a conflict, where the context is `losing`
};
// Finishes the leaves and submits; the transaction is over afterwards whatever happens. Throws
// PythonError (EncodeError, CapacityError, doom, ...).
CommitOutcome commit_context(ContextObject* context, bool describe_conflict);
// `callbacks` may be null. What they raise goes to sys.unraisablehook.
void run_callbacks(const Ref& callbacks);
// Rolls back or unpins. Idempotent; callable from any thread, and in a forked child, where it only
// forgets. Does nothing while it is committed, or waits inside of another operation.
void end_context(ContextObject* context, Status status) noexcept;

// In a forked child: makes a snapshot that was opened before the fork the child's own, if its pin
// is (Session::keeps_views). False: it is none, or it cannot be.
bool take_over(ContextObject* context);
// True while a call that was begun on it has not returned, with other code running meanwhile:
// another thread's, or a signal handler's.
bool is_busy(const ContextObject* context);
[[noreturn]] void raise_unusable(ContextObject* context, PyObject* path);
bool is_forked(const ContextObject* context);

// Throws PythonError unless the context is open and this is its thread and process. `owner` (the
// context or a proxy) names the path in the message.
inline void check_usable(ContextObject* context, PyObject* owner);

// The path of a context or a proxy as a tuple.
Ref path_of(PyObject* owner);

// The exception that forbids to commit: nothing that follows can repair the transaction.
void doom_context(ContextObject* context, PyObject* error);

inline AttachedPtr& attached_of(ContextObject* context) {
  return context->holder != nullptr ? context->holder->attached : (*context->pinned)->attached;
}
inline worker::Transaction& transaction_of(ContextObject* context) {
  return context->holder->transaction;
}
inline const worker::Snapshot& snapshot_of(ContextObject* context) {
  return (*context->pinned)->snapshot;
}

inline void check_usable(ContextObject* context, PyObject* owner) {
  if (context->status == Status::kOpen &&
      (context->thread == 0 || context->thread == PyThread_get_thread_ident()) &&
      context->fork_count == fork_count) {
    return;
  }
  if (take_over(context)) return;
  Ref path = path_of(owner);
  raise_unusable(context, path.get());
}

}  // namespace theus::bindings
