// The turn as this process sees it: which of its transactions has it. Included by worker/*.cpp
// only.
//
// The turn in shared memory belongs to a slot and keeps other processes' deltas away. This one
// belongs to a transaction, and keeps away those of this process that would make it lose:
// SubmissionTurn asks obstacle() before each submission.
//
// Thread safety: as for Session. While one waits here others run, so look again afterwards. The
// memory is this process's own; a forked child inherits a copy that it has no use for.
//
// Invariants: `holder_` is a transaction that exists, and ends its turn with itself (finish()). No
// wait for a turn outlasts `until_ns_`, which does not change while it is the same turn's, except
// when its holder makes it longer.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#include "shm/layout.h"
#include "worker/transaction.h"
#include "worker/turn.h"

namespace theus::worker {

class Turns {
 public:
  explicit Turns(Session::Internals& in) : in_(in) {}
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  bool belong_to(const Transaction::State& s) const { return holder_ == &s; }

  // The turn for `s`, which has not begun yet. First come, first served within this process. Waits
  // as long as the wish's patience, except for a transaction of the calling thread, which could not
  // go on meanwhile. False: other processes, or nobody, are kept away. Throws what the wait hook
  // throws, and CoordinatorLost; then `s` has no turn.
  bool claim(const Transaction::State& s, TurnWish wish);
  // For one that is open and being committed: at once or not at all.
  bool claim_now(const Transaction::State& s, std::uint64_t nanoseconds);
  // If it is its turn.
  void end(const Transaction::State& s) noexcept {
    if (holder_ == &s) end_turn(s);
  }

  // What `s` has written that must not be committed in this turn; nullptr: nothing.
  const Entry* obstacle(const Transaction::State& s) const {
    return holder_ == nullptr || holder_ == &s ? nullptr : find_obstacle(s);
  }
  // True: the turn cannot end while this thread waits.
  bool of_this_thread() const { return thread_ == std::this_thread::get_id(); }
  // Until the turn ends, or earlier; false: `*deadline_ns`, 0 before the first call, has passed. So
  // who waits for one turn after another does so for a second at most. Throws what the wait hook
  // throws.
  bool wait(std::uint64_t* deadline_ns);

 private:
  struct Place {
    const Transaction::State* transaction;
    std::thread::id thread;
  };

  bool taken_from(const Transaction::State& s) const;
  bool cannot_come(const Transaction::State& s) const;
  bool await_place(const Transaction::State& s, std::uint64_t deadline_ns);
  bool claim_shared(const Transaction::State& s, std::uint64_t nanoseconds,
                    std::uint64_t deadline_ns);
  void let_submission_end();
  void leave_queue(const Transaction::State& s);
  void end_turn(const Transaction::State& s) noexcept;
  const Entry* find_obstacle(const Transaction::State& s) const;
  void wait_until(std::uint64_t deadline_ns);
  void changed() noexcept;

  Session::Internals& in_;
  const Transaction::State* holder_ = nullptr;
  std::thread::id thread_;      // of the holder
  std::uint64_t until_ns_ = 0;  // CLOCK_MONOTONIC
  Footprint expected_;
  std::vector<Place> queue_;  // who wants it next, and waits
  shm::HalfWord changes_{0};  // raised when holder or queue has changed; slept on
};

}  // namespace theus::worker
