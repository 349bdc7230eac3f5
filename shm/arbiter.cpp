#include "shm/arbiter.h"

#include <time.h>

#include <algorithm>

#include "shm/arbiter_impl.h"
#include "shm/futex.h"

namespace theus::shm {
namespace {

constexpr std::uint64_t kPinnedPaceNs = 50'000'000;

constexpr std::uint64_t pack_answer(std::uint64_t sequence, Outcome outcome) {
  return sequence << 8 | static_cast<std::uint8_t>(outcome);
}

// Words of `waiting` that slots in use can have set a bit in.
std::uint32_t waiting_groups(const Header& header) {
  const std::uint32_t slots =
      std::min(header.slots_high.load(std::memory_order_acquire), kMaxSlots);
  return (slots + 63) / 64;
}

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ull +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

Arbiter::Arbiter(const Space& space, std::uint32_t slot)
    : impl_(std::make_unique<Impl>(space, slot)) {}
Arbiter::~Arbiter() = default;

bool Arbiter::try_lock() { return impl_->take(impl_->lock.try_acquire()); }

bool Arbiter::lock_for(std::uint64_t nanoseconds) {
  return impl_->take(impl_->lock.acquire_for(nanoseconds));
}

void Arbiter::unlock() {
  Header& header = impl_->space.writable();
  // The janitor sleeps on `backlog` while it is 0. A commit that finds it set makes no system call.
  const bool wake = impl_->janitor_wanted() && header.backlog.load(std::memory_order_relaxed) == 0;
  if (wake) header.backlog.store(1, std::memory_order_release);
  impl_->lock.release();
  if (wake && impl_->slot != kNoSlot) futex_wake(header.backlog);
}

// There is garbage, or more warm memory than is kept, and nobody knows that yet.
bool Arbiter::Impl::janitor_wanted() const {
  const Header& header = space.header();
  return header.retained_head.load(std::memory_order_relaxed) != 0 ||
         header.dead_head.load(std::memory_order_relaxed) != 0 ||
         header.pool.load(std::memory_order_relaxed) ==
             static_cast<std::uint32_t>(PoolWatch::kSurplus);
}

bool Arbiter::garbage() const {
  const Header& header = impl_->space.header();
  return header.retained_head.load(std::memory_order_relaxed) != 0 ||
         header.dead_head.load(std::memory_order_relaxed) != 0;
}

// What a dead owner may have left: a half-done step, versions assigned that never came to be, and
// a slot it was working on. All of it may be done again if we die here, too.
void Arbiter::Impl::repair() {
  Header& header = space.writable();
  tables.journal.repair();
  const std::uint64_t clock = header.clock.load(std::memory_order_acquire);
  const std::uint32_t slots =
      std::min(header.slots_high.load(std::memory_order_relaxed), kMaxSlots);
  for (std::uint32_t i = 0; i < slots; ++i) {
    Word& assigned = header.slots[i].assigned;
    if (assigned.load(std::memory_order_relaxed) > clock) {
      assigned.store(0, std::memory_order_release);
    }
  }
  const std::uint32_t working = header.working_slot.load(std::memory_order_relaxed);
  if (working != 0 && working <= kMaxSlots) {
    const std::uint32_t other = working - 1;
    HalfWord& deaths = header.slots[other].deaths;
    if (waits(other) && committed_unanswered(other) == 0) {
      deaths.store(deaths.load(std::memory_order_relaxed) + 1, std::memory_order_release);
      // A delta that kills whoever works on it must not kill every combiner in turn.
      if (deaths.load(std::memory_order_relaxed) >= 2) answer(other, {Outcome::kPoison});
    }
    header.working_slot.store(0, std::memory_order_release);
  }
  // It may have committed, even answered, and not told all those who wait for it.
  waiters.wake_all();
  header.repairs.store(header.repairs.load(std::memory_order_relaxed) + 1,
                       std::memory_order_relaxed);
}

// The version under which the slot's present request has been committed by an owner that died
// before it answered; 0: it has not. Only the lock owner may judge this: an assigned version above
// the clock may yet be undone and given to another delta.
std::uint64_t Arbiter::Impl::committed_unanswered(std::uint32_t other) const {
  const Header& header = space.header();
  const SlotRecord& record = header.slots[other];
  const std::uint64_t assigned = record.assigned.load(std::memory_order_acquire);
  const bool current = record.assigned_request.load(std::memory_order_acquire) ==
                       space.desk(other).request.load(std::memory_order_acquire);
  return current && assigned <= header.clock.load(std::memory_order_acquire) ? assigned : 0;
}

bool Arbiter::Impl::waits(std::uint32_t other) const {
  const std::uint64_t request = space.desk(other).request.load(std::memory_order_seq_cst);
  return request != space.header().slots[other].answer.load(std::memory_order_relaxed) >> 8;
}

// Read by every lock owner, and without the lock by who sleeps on the word until it changes: such a
// one looks again under the lock. If we die before the wake-up it sleeps until the turn's time.
void Arbiter::Impl::end_turn(std::uint32_t other) {
  Header& header = space.writable();
  if (header.turn_slot.load(std::memory_order_relaxed) != other + 1) return;
  header.turn_slot.store(0, std::memory_order_release);
  futex_wake(header.turn_slot);
}

void Arbiter::Impl::answer(std::uint32_t other, Decision decision) {
  SlotRecord& record = space.writable().slots[other];
  Desk& desk = space.desk(other);
  // Not while it has to submit the same again. Of another transaction of its slot: not at all.
  if (decision.ends_turn && decision.outcome != Outcome::kValidateAgain &&
      decision.outcome != Outcome::kJournalFull) {
    end_turn(other);
  }
  record.answer_version.store(decision.version, std::memory_order_relaxed);
  record.answer_index.store(decision.index, std::memory_order_relaxed);
  record.deaths.store(0, std::memory_order_relaxed);
  // seq_cst with the worker's `sleeping`: either it sees the answer before it sleeps, or we see
  // that it may be asleep.
  record.answer.store(pack_answer(desk.request.load(std::memory_order_relaxed), decision.outcome),
                      std::memory_order_seq_cst);
  record.assigned.store(0, std::memory_order_release);
  if (desk.sleeping.load(std::memory_order_seq_cst) != 0) futex_wake(low_half(record.answer));
}

// A turn that has run out or whose holder is gone ends here: nobody waits for the dead.
bool Arbiter::Impl::blocked_by_turn(std::uint32_t other) {
  Header& header = space.writable();
  const std::uint32_t holder = header.turn_slot.load(std::memory_order_relaxed);
  if (holder == 0 || holder == other + 1) return false;
  if (monotonic_ns() < header.turn_until_ns.load(std::memory_order_relaxed)) return true;
  end_turn(holder - 1);
  return false;
}

void Arbiter::Impl::serve(std::uint32_t other) {
  Header& header = space.writable();
  SlotRecord& record = header.slots[other];
  if (const std::uint64_t version = committed_unanswered(other); version != 0) {
    answer(other, {Outcome::kCommitted, version});
    return;
  }
  if (record.state.load(std::memory_order_relaxed) !=
      static_cast<std::uint32_t>(SlotState::kAdmitted)) {
    return;
  }
  header.working_slot.store(other + 1, std::memory_order_release);
  if (blocked_by_turn(other)) {
    header.working_slot.store(0, std::memory_order_release);
    // It goes on waiting; whoever has the turn looks at it right after his own.
    header.waiting[other / 64].fetch_or(1ull << (other % 64), std::memory_order_seq_cst);
    return;
  }
  const Decision decision = committer.decide(other);
  answer(other, decision);
  header.working_slot.store(0, std::memory_order_release);
  if (decision.outcome == Outcome::kCommitted) {
    ++commits_since_reclaim;
    if (waiters.any()) waiters.notify(decision.version);
    const std::uint64_t keys = header.key_count.load(std::memory_order_relaxed);
    if (Index::wants_growth(header, keys)) {
      tables.journal.begin(kNoVersion);
      tables.index.double_buckets(keys);
      tables.journal.end();
    }
  }
  if (other != slot) ++combined;
}

std::uint32_t Arbiter::drain(std::uint32_t deltas_max) {
  Header& header = impl_->space.writable();
  std::uint32_t served = 0;
  if (impl_->slot != kNoSlot && impl_->waits(impl_->slot)) {
    impl_->serve(impl_->slot);
    ++served;
  }
  if (impl_->slot == kNoSlot) {
    const std::uint32_t slots =
        std::min(header.slots_high.load(std::memory_order_relaxed), kMaxSlots);
    for (std::uint32_t i = 0; i < slots && served < deltas_max; ++i) {
      if (!impl_->waits(i)) continue;
      impl_->serve(i);
      ++served;
    }
    return served;
  }
  const std::uint32_t groups = waiting_groups(header);
  for (std::uint32_t group = 0; group < groups; ++group) {
    Word& word = header.waiting[group];
    if (word.load(std::memory_order_relaxed) == 0) continue;
    // Cleared before the requests are read: who sets its bit after this finds it set at rescan.
    std::uint64_t bits = word.exchange(0, std::memory_order_seq_cst);
    for (; bits != 0; bits &= bits - 1) {
      const auto other = group * 64 + static_cast<std::uint32_t>(__builtin_ctzll(bits));
      if (served >= deltas_max) {
        word.fetch_or(bits, std::memory_order_seq_cst);  // left for the next holder
        break;
      }
      if (!impl_->waits(other)) continue;
      impl_->serve(other);
      ++served;
    }
  }
  return served;
}

bool Arbiter::prelink(Link node, bool* good) {
  const Linker::Prelinked done = impl_->linker.prelink(impl_->slot, node);
  *good = done != Linker::Prelinked::kBad;
  return done == Linker::Prelinked::kMore;
}

bool Arbiter::abandon_prelinked() { return impl_->linker.bury_nursery(impl_->slot); }

bool Arbiter::claim_turn(std::uint64_t nanoseconds, std::uint32_t deltas_max) {
  Header& header = impl_->space.writable();
  // Seen from another slot: true while somebody else's turn lasts, and ends one that is over.
  const std::uint32_t holder = header.turn_slot.load(std::memory_order_relaxed);
  if (holder != impl_->slot + 1 && impl_->blocked_by_turn(impl_->slot)) return false;
  impl_->end_turn(impl_->slot);
  drain(deltas_max);
  header.turn_until_ns.store(monotonic_ns() + nanoseconds, std::memory_order_relaxed);
  header.turn_slot.store(impl_->slot + 1, std::memory_order_release);
  header.turns.store(header.turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return true;
}

void Arbiter::end_turn() { impl_->end_turn(impl_->slot); }

void Arbiter::wait_for_turn(std::uint64_t timeout_ns) const {
  const Header& header = impl_->space.header();
  const std::uint32_t holder = header.turn_slot.load(std::memory_order_acquire);
  if (holder == 0 || holder == impl_->slot + 1) return;
  const std::uint64_t until = header.turn_until_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = monotonic_ns();
  if (now < until) futex_wait(header.turn_slot, holder, std::min(timeout_ns, until - now));
}

bool Arbiter::turn_lasts() const {
  return impl_->space.header().turn_slot.load(std::memory_order_relaxed) != 0;
}

std::optional<std::uint32_t> Arbiter::add_waiter(std::span<const std::uint64_t> interests) {
  return impl_->waiters.add(impl_->slot, interests);
}

bool Arbiter::rearm_waiter(std::uint32_t waiter, std::span<const std::uint64_t> interests) {
  return impl_->waiters.rearm(waiter, impl_->slot, interests);
}

void Arbiter::remove_waiter(std::uint32_t waiter) { impl_->waiters.remove(waiter, impl_->slot); }

bool Arbiter::anyone_waiting() const {
  const Header& header = impl_->space.header();
  const std::uint32_t groups = waiting_groups(header);
  for (std::uint32_t group = 0; group < groups; ++group) {
    if (header.waiting[group].load(std::memory_order_seq_cst) != 0) return true;
  }
  return false;
}

LockHolder Arbiter::holder() const { return lock_holder(impl_->space.header()); }

bool Arbiter::wait_for_backlog(std::uint64_t timeout_ns) const {
  const HalfWord& backlog = impl_->space.header().backlog;
  if (backlog.load(std::memory_order_acquire) == 0) {
    return futex_wait(backlog, 0, timeout_ns);
  }
  // What is left is pinned or coming in steadily; nothing tells when a pin goes.
  return futex_wait(backlog, 1, std::min(timeout_ns, kPinnedPaceNs));
}

std::uint64_t Arbiter::combined() const { return impl_->combined; }

}  // namespace theus::shm
