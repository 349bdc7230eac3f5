// Runs of extents: who has which 64 KiB of the segment.
//
// The extent table says where each run begins (`head` is non-zero there and nowhere else), what it
// is and who fills it. Granting, splitting, joining and returning are journalled steps of a few
// words under the lock, done by whichever process needs memory, so that nobody has to wait for a
// coordinator that has died. Free neighbours are joined when a search passes them.
//
// Placement. Extents of cells stay what they are for ever, or for long, and lie where they were
// granted; so that they do not end up between the large values, a single extent is the lowest that
// is free, even where warm memory is to be had higher up (unless the system has no more), and a
// longer run comes from the high end of the free memory that it fits into, warm memory first.
//
// The reserve: the last extents of the segment. Searches stay within it or outside of it, and only
// deltas that do nothing but free memory look into it, so that a full state can be emptied.
//
// All functions: lock held, inside a step of `journal`, unless they say otherwise.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "shm/cell_class.h"
#include "shm/journal.h"
#include "shm/space.h"

namespace theus::shm {

// Extents of the reserve of a state of `extents`: 4 MiB, but no more than one in 32.
constexpr std::uint32_t reserve_extents(std::uint64_t extents) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>((4ull << 20) / kExtentBytes, extents / 32));
}
static_assert(reserve_extents(kMinCapacityBytes / kExtentBytes) >= 4);

// Where a search for free extents stands; it may be carried from one hold of the lock to the next.
struct RunSearch {
  std::uint64_t at = 0;
  std::uint64_t hops = 0;       // all in all, over every hold
  bool raw_too = false;         // also take runs that have no memory behind them yet
  bool in_reserve = false;      // look there and nowhere else
  bool to_high_end = false;     // find all that is free behind it, too
};

enum class RunFound : std::uint8_t { kFound, kMore, kNone };

class Extents {
 public:
  Extents(const Space& space, StepJournal& journal) : space_(space), journal_(journal) {}

  // Looks for `length` free extents, at most `hops_max` steps. kFound: free runs of *span extents
  // together, at least `length`, begin at *found (valid while the lock is held). kMore: call again.
  // kNone: there are none.
  RunFound find(RunSearch& search, std::uint32_t length, std::uint64_t hops_max,
                std::uint64_t* found, std::uint64_t* span);

  // How many of the free extents in [at, at + length), which begins with a free run, lack memory.
  std::uint64_t count_raw(std::uint64_t at, std::uint64_t length) const;

  // Makes `at`, inside one of the free runs that begin at `run`, the head of a run of its own.
  void split(std::uint64_t run, std::uint64_t at);

  // Makes [at, at + length) a run with this head. It is free now and begins with a run's head; what
  // is left of the run that it ends in stays free.
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
  // The first extent of the reserve, which goes on to the end.
  std::uint64_t reserve_at() const {
    return std::min(space_.header().reserve_at.load(std::memory_order_relaxed), count());
  }
  struct Reserve {
    std::uint64_t warm = 0;   // free extents with memory behind them
    std::uint64_t cells = 0;  // extents that have become cells and stay so
    bool lent = false;        // somebody else than `slot` has some of it and gives it back
  };
  Reserve reserve(std::uint32_t slot) const;
  // Free extents with memory behind them, outside of the reserve; and how many of these are kept
  // for whoever needs some next: half of what is in use, but never very little.
  std::uint64_t warm() const;
  std::uint64_t warm_kept() const;
  std::uint64_t offset_of(std::uint64_t at) const {
    return space_.header().extents_offset.load(std::memory_order_relaxed) + at * kExtentBytes;
  }
  ExtentRecord* table() const { return space_.writable().extents; }

 private:
  void join(std::uint64_t at, std::uint64_t span);
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
