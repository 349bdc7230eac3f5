// Waiting, as Python sees it: what is waited for (Target), one wait under way (Waiter), and
// ctx.retry(). The loops are in theus/_waiting.py and theus/_aio.py; docs/waiting.md has the
// protocol.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <variant>
#include <vector>

#include "bindings/attached.h"
#include "bindings/context.h"
#include "worker/waiting.h"

namespace theus::bindings {

// Some paths, or what a transaction has read. Immutable.
class Target {
 public:
  Target(AttachedPtr attached, std::vector<worker::WatchedPath> paths)
      : attached_(std::move(attached)), what_(std::move(paths)) {}
  Target(AttachedPtr attached, worker::ReadSet reads)
      : attached_(std::move(attached)), what_(std::move(reads)) {}
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // The newest version, and which of the paths have changed after `since`, as indices. What a
  // transaction has read counts as one path, and changes after its snapshot.
  pybind11::tuple look(std::uint64_t since) const;
  void add_interests(const worker::Snapshot& snapshot, worker::Interests* interests) const;

 private:
  AttachedPtr attached_;
  std::variant<std::vector<worker::WatchedPath>, worker::ReadSet> what_;
};

// One thread arms it, looks and sleeps, again and again, and disarms it; any thread may wake() or
// close() it. A wake-up that meets arm() is lost (worker/waiting.h).
//
// Thread safety: the GIL, which is let go while it sleeps.
class Waiter {
 public:
  explicit Waiter(EngineObject* engine);
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  // From here on a commit that concerns one of the targets wakes it. Raises TheusError once closed.
  void arm(const pybind11::list& targets);
  // At most so many seconds, and at most kSliceS: then the caller looks by itself, for signals that
  // came just before the sleep, and for a committer that died when nobody was left to say so.
  // True: something has called. Raises TheusError once closed, and what a signal's handler raises.
  bool sleep(double seconds);
  void wake() { wait_.wake(); }
  // Ends it: arm() and sleep() raise, also one that is under way.
  void close();
  void disarm() { wait_.disarm(); }

  static constexpr double kSliceS = 1.0;

 private:
  void require_open() const;

  AttachedPtr attached_;
  worker::Wait wait_;
  bool closed_ = false;
};

// ctx.retry(): raises the exception that gives up the attempt, or TheusError where there is none.
// The context cannot commit any more.
[[noreturn]] void raise_retry(ContextObject* context);
// What the context waits for after its ctx.retry(), as a Python Target; null: it has not been
// called. `error` is what left the function, or null: only the retry itself counts, a later error
// goes first.
Ref retry_target(ContextObject* context, PyObject* error);

void bind_waiting(pybind11::module_& module);

}  // namespace theus::bindings
