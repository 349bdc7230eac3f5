// Runs of extents: who has which 64 KiB of the segment.
//
// The extent table says where each run begins (`head` is non-zero there and nowhere else), what it
// is and who fills it. Granting, splitting, joining and returning are journalled steps of a few
// words under the lock, done by whichever process needs memory, so that nobody has to wait for a
// coordinator that has died. Free neighbours are joined when a search passes them.
//
// All functions: lock held, inside a step of `journal`, unless they say otherwise.
#pragma once

#include <cstdint>
#include <optional>

#include "shm/cell_class.h"
#include "shm/journal.h"
#include "shm/space.h"

namespace theus::shm {

// Where a search for free extents stands; it may be carried from one hold of the lock to the next.
struct RunSearch {
  std::uint64_t at = 0;
  std::uint64_t hops = 0;       // all in all, over every hold
  bool raw_too = false;         // also take runs that have no memory behind them yet
};

enum class RunFound : std::uint8_t { kFound, kMore, kNone };

class Extents {
 public:
  Extents(const Space& space, StepJournal& journal) : space_(space), journal_(journal) {}

  // Looks for `length` free extents, at most `hops_max` steps. kFound: *found is the head of a free
  // run at least that long (valid while the lock is held). kMore: call again. kNone: there is none.
  RunFound find(RunSearch& search, std::uint32_t length, std::uint64_t hops_max,
                std::uint64_t* found);

  // Makes [at, at + length) a run of its own with this head, the rest of the free run stays free.
  void take(std::uint64_t at, std::uint32_t length, ExtentHead head);

  // The run at `at` becomes free, with memory behind it (`backed`) or without.
  void release(std::uint64_t at, bool backed);

  ExtentHead head(std::uint64_t at) const {
    return ExtentHead::unpack(table()[at].head.load(std::memory_order_acquire));
  }
  void set_head(std::uint64_t at, ExtentHead head) {
    journal_.set(table()[at].head, head.pack());
  }
  std::uint64_t count() const {
    return space_.header().extent_count.load(std::memory_order_relaxed);
  }
  std::uint64_t offset_of(std::uint64_t at) const {
    return space_.header().extents_offset.load(std::memory_order_relaxed) + at * kExtentBytes;
  }
  ExtentRecord* table() const { return space_.writable().extents; }

 private:
  void count_used(std::int64_t extents);
  void count_backed(std::int64_t extents);

  const Space& space_;
  StepJournal& journal_;
};

// Which extent and cell `unit` is the start of. nullopt: of none. Safe on wild input; no lock.
struct CellPlace {
  std::uint64_t extent;
  std::uint32_t index;
  ExtentHead head;
  std::uint8_t cell_class() const {
    return head.kind == ExtentKind::kRun ? kRunClass : head.cell_class;
  }
};
std::optional<CellPlace> locate_cell(const Space& space, std::uint32_t unit);

}  // namespace theus::shm
