// What an Arbiter is made of. Included by shm/arbiter*.cpp only:
// arbiter.cpp         the lock, repair, deciding and answering, the turn
// arbiter_memory.cpp  reclamation, cells and extents for stocks, growth of the index
// arbiter_evict.cpp   admission, and taking back what the dead had
#pragma once

#include <cstdint>
#include <optional>

#include "shm/arbiter.h"
#include "shm/commit.h"
#include "shm/linker.h"
#include "shm/lock.h"
#include "shm/reclaim.h"
#include "shm/tables.h"
#include "shm/waiters.h"

namespace theus::shm {

inline constexpr std::uint32_t kRecordsPerReclaim = 256;

struct Arbiter::Impl {
  Impl(const Space& shared, std::uint32_t its_slot)
      : space(shared),
        slot(its_slot),
        lock(shared, its_slot),
        tables(shared),
        linker(tables),
        reclaimer(tables),
        committer(tables, linker, reclaimer),
        waiters(tables) {}

  bool take(Acquired acquired) {
    if (acquired == Acquired::kNo) return false;
    if (acquired == Acquired::kOwnerDied) {
      repair();
      lock.consistent();
    }
    return true;
  }

  bool janitor_wanted() const;
  void repair();
  bool waits(std::uint32_t other) const;
  std::uint64_t committed_unanswered(std::uint32_t other) const;
  void answer(std::uint32_t other, Decision decision);
  void serve(std::uint32_t other);
  bool blocked_by_turn(std::uint32_t other);
  std::optional<std::uint32_t> occupy(SlotState state, std::uint32_t most, std::uint32_t pid,
                                      std::uint64_t start_time);
  void clear_pins(std::uint32_t gone);
  void end_turn(std::uint32_t other);
  bool sweep(std::uint32_t gone);
  void unlink_cells(std::uint64_t extent, std::uint8_t cell_class, bool fresh);

  const Space& space;
  const std::uint32_t slot;
  ArbitrationLock lock;
  Tables tables;
  Linker linker;
  Reclaimer reclaimer;
  Committer committer;
  Waiters waiters;
  std::uint32_t commits_since_reclaim = 0;
  std::uint64_t combined = 0;
  // Where the eviction of `sweeping` stands; a new process starts it again from 0.
  std::uint32_t sweeping = kNoSlot;
  std::uint64_t sweeping_tenant = 0;
  std::uint64_t sweep_at = 0;
};

}  // namespace theus::shm
