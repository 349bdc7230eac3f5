// A session as the binding shares it: between an engine, its contexts, and the views it gave out.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "worker/connection.h"
#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::bindings {

// Raised in each forked child: one load tells what belongs to an ancestor. (Session::forked() sees
// also children that were made without fork handlers; it is asked when something is opened.)
extern unsigned long fork_count;
void count_forks();

// Thread safety: the session's calls are serialized by the GIL, which os.fork() holds, too, and
// which the session lets go while it waits. In a forked child it may be destroyed like anything
// else: the session releases what is the child's own, and nothing of the parent's.
struct Attached final : worker::WaitHook {
  explicit Attached(worker::Attachment attachment)
      : session(std::move(attachment)), id(next_id().fetch_add(1)) {
    session.set_wait_hook(this);
  }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

  // Counts what is opened, for waits().
  std::uint64_t next_opening() { return ++openings_; }
  // True while that thread is inside of a call that waits, and that began after the opening: then
  // what was opened must not be ended by another, nor by a signal handler of its own. (What the
  // handler itself opens has nothing to do with the call that it interrupts.)
  bool waits(unsigned long thread, std::uint64_t opening) const {
    return std::any_of(waiting_.begin(), waiting_.end(), [&](const WaitingThread& each) {
      return each.thread == thread && each.openings >= opening;
    });
  }

  void* before() noexcept override;
  // Runs signal handlers if `may_throw`; throws PythonError for what they raise.
  void after(void* token, bool may_throw) override;

  worker::Session session;
  const std::uint64_t id;  // never used twice in a process, unlike the address

 private:
  struct WaitingThread {
    unsigned long thread;
    std::uint64_t openings;  // before it
  };
  std::vector<WaitingThread> waiting_;  // the GIL
  std::uint64_t openings_ = 0;
  static std::atomic<std::uint64_t>& next_id() {
    static std::atomic<std::uint64_t> next{1};
    return next;
  }
};
using AttachedPtr = std::shared_ptr<Attached>;

// A pinned version, shared by the contexts and States that read it. Members are destroyed from the
// last to the first: the pin before the session.
struct PinnedSnapshot {
  explicit PinnedSnapshot(AttachedPtr to) : attached(std::move(to)), snapshot(attached->session) {}
  AttachedPtr attached;
  worker::Snapshot snapshot;
};
using PinnedPtr = std::shared_ptr<PinnedSnapshot>;

}  // namespace theus::bindings
