#include "worker/turns.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "shm/control_channel.h"
#include "shm/futex.h"
#include "worker/footprint.h"
#include "worker/internals.h"

namespace theus::worker {
namespace {

// For what has to be done between having the turn here and having it everywhere.
constexpr std::uint64_t kClaimNs = 1'000'000'000;
constexpr std::uint64_t kWaitNsMax = 1'000'000'000;

}  // namespace

// A holder whose time is over has no turn any more, and learns of it when it looks.
bool Turns::taken_from(const Transaction::State& s) const {
  return holder_ != nullptr && holder_ != &s && shm::monotonic_ns() < until_ns_;
}

void Turns::changed() noexcept {
  changes_.fetch_add(1, std::memory_order_relaxed);
  shm::futex_wake(changes_);
}

// What serializes the session's calls is let go after the word was read, so no change is missed.
void Turns::wait_until(std::uint64_t deadline_ns) {
  const std::uint32_t seen = changes_.load(std::memory_order_relaxed);
  const std::uint64_t now = shm::monotonic_ns();
  Waiting waits(in_.wait_hook);
  if (now < deadline_ns) shm::futex_wait(changes_, seen, deadline_ns - now);
  waits.end();
}

bool Turns::wait(std::uint64_t* deadline_ns) {
  const std::uint64_t now = shm::monotonic_ns();
  if (*deadline_ns == 0) *deadline_ns = now + kWaitNsMax;
  if (now >= *deadline_ns) return false;
  wait_until(std::min(*deadline_ns, until_ns_));
  return true;
}

void Turns::leave_queue(const Transaction::State& s) {
  std::erase_if(queue_, [&s](const Place& place) { return place.transaction == &s; });
  changed();
}

// What has to happen first is of this thread's own: a transaction of another asyncio task, or of
// the code that a signal handler has interrupted.
bool Turns::cannot_come(const Transaction::State& s) const {
  if (taken_from(s) && of_this_thread()) return true;
  const auto self = std::this_thread::get_id();
  for (const Place& place : queue_) {
    if (place.transaction == &s) return false;
    if (place.thread == self) return true;
  }
  return false;
}

bool Turns::await_place(const Transaction::State& s, std::uint64_t deadline_ns) {
  queue_.push_back({&s, std::this_thread::get_id()});
  try {
    while (taken_from(s) || queue_.front().transaction != &s) {
      if (shm::monotonic_ns() >= deadline_ns || cannot_come(s)) {
        leave_queue(s);
        return false;
      }
      wait_until(taken_from(s) ? std::min(deadline_ns, until_ns_) : deadline_ns);
    }
  } catch (...) {
    leave_queue(s);
    throw;
  }
  leave_queue(s);
  return true;
}

// One that was handed in before may commit after the claimant's snapshot; no later one will.
void Turns::let_submission_end() {
  std::unique_lock<std::mutex> submission(in_.submission_mutex, std::try_to_lock);
  if (submission.owns_lock()) return;
  Waiting waits(in_.wait_hook);
  submission.lock();
  submission.unlock();
  waits.end();
}

bool Turns::claim_shared(const Transaction::State& s, std::uint64_t nanoseconds,
                         std::uint64_t deadline_ns) {
  for (;;) {
    in_.lock(OnSignal::kGiveUp);
    // It may have taken so long that it is another's by now.
    const bool ours = belong_to(s);
    const bool claimed = ours && in_.arbiter.claim_turn(nanoseconds, kDeltasPerHold);
    in_.arbiter.unlock();
    const std::uint64_t now = shm::monotonic_ns();
    if (claimed || !ours || now >= deadline_ns) return claimed;
    Waiting waits(in_.wait_hook);
    in_.arbiter.wait_for_turn(deadline_ns - now);
    waits.end();
  }
}

bool Turns::claim(const Transaction::State& s, TurnWish wish) {
  in_.require_place();
  const std::uint64_t deadline_ns = shm::monotonic_ns() + wish.patience_ns;
  if (!await_place(s, deadline_ns)) return false;
  holder_ = &s;
  thread_ = std::this_thread::get_id();
  until_ns_ = deadline_ns + kClaimNs;
  expected_ = std::move(wish.expected);
  bool everywhere = false;
  try {
    let_submission_end();
    everywhere = claim_shared(s, wish.nanoseconds, deadline_ns);
  } catch (...) {
    end(s);
    throw;
  }
  if (belong_to(s)) until_ns_ = shm::monotonic_ns() + wish.nanoseconds;
  changed();  // it may be over earlier than those who wait have been told
  return everywhere;
}

bool Turns::claim_now(const Transaction::State& s, std::uint64_t nanoseconds) {
  in_.lock(OnSignal::kGiveUp);
  const bool claimed = !taken_from(s) && in_.arbiter.claim_turn(nanoseconds, kDeltasPerHold);
  in_.arbiter.unlock();
  if (!claimed) return false;
  if (!belong_to(s)) expected_ = Footprint();
  holder_ = &s;
  thread_ = std::this_thread::get_id();
  until_ns_ = shm::monotonic_ns() + nanoseconds;
  return true;
}

// First everywhere, then here: while the lock is waited for others may run, and find it taken, or
// over and then theirs. The answer has ended the shared one already if it was to one of ours.
void Turns::end_turn(const Transaction::State& s) noexcept {
  if (!in_.lost &&
      in_.space.header().turn_slot.load(std::memory_order_relaxed) == in_.attachment.slot + 1) {
    try {
      in_.lock(OnSignal::kGoOn);
      if (belong_to(s)) in_.arbiter.end_turn();
      in_.arbiter.unlock();
    } catch (const CoordinatorLost&) {
      in_.lost = true;
    }
  }
  if (!belong_to(s)) return;
  holder_ = nullptr;
  expected_ = Footprint();
  changed();
}

const Entry* Turns::find_obstacle(const Transaction::State& s) const {
  if (!taken_from(s)) return nullptr;
  if (const Entry* met = meets(expected_, s)) return met;
  return holder_->open ? meets(*holder_, s) : nullptr;
}

}  // namespace theus::worker
