// The janitor: everything the coordinator does while it holds the arbitration lock, cut into holds
// of bounded length, with the lock free between them.
//
// A hold goes: (1) repair, by taking the lock; (2) waiting deltas, so that nobody waits for the
// janitor; then, in the first hold after a start, a survey of the slots, and in all others (3) one
// piece of one eviction, (4) admissions, (5) one piece of reclamation, (6) one piece of the pool's
// work. Results are told after the lock has been released: nothing under it logs, sends or
// allocates.
//
// Invariants: 1. No admission and no eviction before the survey. 2. A tenancy stands in the queue
// of evictions at most once, and only its own tenant is evicted for it: by then the slot may have
// gone to somebody else (an outdated roster). 3. One eviction is finished before the next begins
// (the arbiter keeps its place in one only).
//
// Thread safety: one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "coordinator/pool.h"
#include "shm/arbiter.h"
#include "shm/control_message.h"
#include "shm/space.h"

namespace theus::coordinator {

class Janitor {
 public:
  // Who waits for a slot. `guest` is the caller's, and comes back with the result.
  struct Applicant {
    std::uint64_t guest = 0;
    std::uint32_t pid = 0;
    std::uint64_t start_time = 0;
    bool spare = false;                   // a slot for a forked child, without a process yet
    std::optional<shm::Tenancy> copy_of;  // with the pins of this spare slot
  };
  struct Occupied {
    shm::Tenancy tenancy;
    bool leaving = false;  // its eviction had begun
  };
  struct Callbacks {
    std::function<void(const std::vector<Occupied>&)> surveyed;
    std::function<void(const Applicant&, std::optional<shm::Tenancy>)> admitted;  // null: full
    std::function<void(shm::Tenancy)> evicted;
    std::function<void()> idle;  // nothing is left to reclaim for now
  };

  Janitor(const shm::Space& space, shm::Arbiter& arbiter, Pool& pool, Callbacks callbacks);

  void admit(const Applicant& applicant) { applicants_.push_back(applicant); }
  void evict(shm::Tenancy tenancy);
  void look() { wanted_ = true; }    // somebody died: take the lock once, at once
  void reclaim() { reclaiming_ = true; }

  bool surveyed() const { return surveyed_; }
  bool wants_lock() const {
    return urgent() || reclaiming_ || !evictions_.empty() || pool_.wants_lock();
  }
  bool urgent() const { return wanted_ || !surveyed_ || !applicants_.empty(); }
  // One hold. False: the lock could not be had within `patience_ns` (0: not at once).
  bool hold(std::uint64_t patience_ns);

 private:
  struct Outcome;
  void work(Outcome* outcome);
  std::optional<shm::Tenancy> place(const Applicant& applicant);
  void survey();
  void tell(const Outcome& outcome);

  const shm::Space& space_;
  shm::Arbiter& arbiter_;
  Pool& pool_;
  const Callbacks callbacks_;
  bool wanted_ = true;  // the first hold repairs what a predecessor left
  bool surveyed_ = false;
  bool reclaiming_ = true;
  std::vector<Occupied> occupied_;
  std::deque<shm::Tenancy> evictions_;
  std::deque<Applicant> applicants_;
};

}  // namespace theus::coordinator
