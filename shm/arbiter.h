// The arbiter: everything that is done while holding the arbitration lock. One object per process
// (or, in tests, per worker thread); any process may run it. No Python, no allocation and no
// exception under the lock.
//
// Thread safety: an Arbiter belongs to one thread at a time; the lock in shared memory excludes
// all others, in this process and elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shm/layout.h"
#include "shm/lock.h"
#include "shm/space.h"

namespace theus::shm {

class Arbiter {
 public:
  // `slot`: whose process this is; kNoSlot for the coordinator.
  Arbiter(const Space& space, std::uint32_t slot);
  ~Arbiter();
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;

  // Holding the lock. Taking it repairs what a dead owner left behind. Never blocks for ever: a
  // stopped owner makes lock_for() time out. unlock() wakes the janitor when there is work for it.
  bool try_lock();
  bool lock_for(std::uint64_t nanoseconds);
  void unlock();

  // --- Only with the lock held:

  // Decides and answers waiting requests, its own process's and others', at most `deltas_max`.
  // Workers look at their own slot and at those that say they wait; the coordinator at all.
  // Returns how many it answered.
  std::uint32_t drain(std::uint32_t deltas_max);

  // One bounded piece of reclamation (about `records_max` records). False when everything that
  // stood in the queues has been visited once; then reclaim_found() tells whether anything went.
  bool reclaim(std::uint32_t records_max);
  bool reclaim_found() const;
  // The same, every so many commits or when much can be had: what a worker does after a commit.
  void reclaim_sometimes();
  bool garbage() const;  // superseded versions or dead nodes exist

  // A slot for a process that the caller has verified. nullopt: kMaxWorkers have one.
  std::optional<std::uint32_t> admit(std::uint32_t pid, std::uint64_t start_time);
  // A slot for the pins of a forked child. nullopt: kMaxSpares are leased.
  std::optional<std::uint32_t> lease_spare();
  // Gives spare slot `to`, if it is still in its tenancy `admission`, all pins of slot `from`, each
  // at its own place. Two slots then keep the same alive, each until it releases it.
  bool copy_pins(std::uint32_t from, std::uint32_t to, std::uint64_t admission);

  // One bounded piece of taking back what the process in `slot` had: answers or discards its
  // request first, then pins, then extents. The caller has made sure that the process is gone (or
  // has detached). True when done: the slot is free again.
  bool evict(std::uint32_t slot);

  // Cells of `cell_class` for this process's stock (reserve cells_per_extent first): freed ones of
  // its own extents, or a whole ownerless extent. False: none, ask grant().
  bool collect_cells(std::uint8_t cell_class, std::vector<std::uint32_t>& units);

  // Links a part of what lies below a filled node of this process before the delta that binds it is
  // submitted (linker.h). True: call again (let go of the lock in between); *good false: refused.
  bool prelink(Link node, bool* good);
  // After a delta that was not committed: what had been linked for it becomes garbage. True: again.
  bool abandon_prelinked();

  // Lets no other slot's delta be decided before one of this process that says it ends the turn,
  // for at most `nanoseconds`. False: somebody else has the turn. Up to `deltas_max` of those that
  // an earlier turn has kept away are decided first: turns that follow one another, without a
  // moment in between, would shut out others for good.
  bool claim_turn(std::uint64_t nanoseconds, std::uint32_t deltas_max);
  // If it is ours.
  void end_turn();

  // A wait of this process (waiters.h): registered, armed again with new interests, ended.
  // nullopt: kMaxWaiters waits are under way. False: we have been evicted.
  std::optional<std::uint32_t> add_waiter(std::span<const std::uint64_t> interests);
  bool rearm_waiter(std::uint32_t waiter, std::span<const std::uint64_t> interests);
  void remove_waiter(std::uint32_t waiter);

  // Gives unused cells of this process's stock back to their extents, the last ones of `units`
  // first, a bounded number, all but the first `keep`. Extents that become free that way are
  // anybody's.
  void put_back_cells(std::vector<std::uint32_t>& units, std::size_t keep);

  // Takes `length` free extents for this process. kBacked: usable. kRaw: call Space::back on them
  // (without the lock), then settle(). kMore: call again (the search is bounded). kNone: full.
  // Where it lies: extents.h.
  enum class Grant : std::uint8_t { kBacked, kRaw, kMore, kNone };
  struct GrantRequest {
    std::uint32_t length = 1;
    std::uint8_t cell_class = 0;  // or kRunClass
    bool in_reserve = false;      // for a delta that does nothing but free memory
    bool warm_only = false;       // the system has refused memory
    // Progress and result:
    std::uint64_t at = 0, hops = 0;
    bool raw_too = false;
    std::uint64_t extent = 0;   // first extent
    std::uint32_t taken = 0;    // how many to back when kRaw
    bool reserve_lent = false;  // kNone in the reserve: some of it will come back
  };
  Grant grant(GrantRequest& request);
  // After backing a kRaw grant: it becomes what was asked for (request.extent), the surplus free.
  // `backed` false: all of it goes back.
  void settle(GrantRequest& request, bool backed);
  // Gives back a run that this process holds and has not submitted.
  void return_run(std::uint64_t extent);
  std::uint64_t extent_offset(std::uint64_t extent) const;

  // Free memory that the coordinator has taken out, to put memory behind it or take it away without
  // the lock; restore() makes it free again. Nobody else uses it meanwhile. What a coordinator that
  // died had out, find_lent() names. The latter two look at a bounded number of extents, from *at
  // on, and leave there where to go on: at least extents() when there is no more.
  struct FreeRun {
    std::uint64_t extent = 0;
    std::uint32_t length = 0;
  };
  std::optional<FreeRun> lend_raw_reserve(std::uint32_t length_max);
  std::optional<FreeRun> lend_warm(std::uint32_t length_max, std::uint64_t* at);
  std::optional<FreeRun> find_lent(std::uint64_t* at);
  std::uint64_t extents() const;
  void restore(FreeRun run, bool backed);

  // The pool of free memory that is warm, in extents. `low`: the fewest there have been since the
  // last call of watch_pool(true). The first release that makes more of it than is kept wakes the
  // janitor; watched, nobody is woken for it any more.
  struct Pool {
    std::uint64_t warm = 0, low = 0, kept = 0;
  };
  Pool pool() const;
  bool pool_wants_watch() const;
  void watch_pool(bool watched);

  // True if the index directory wants to grow for `keys_more` keys; then grant() a kDirectory
  // extent (class kDirectoryClass), zero it, and install_segment() it.
  bool index_wants_segment(std::uint64_t keys_more) const;
  void install_segment(std::uint64_t extent);
  void grow_index(std::uint64_t keys_more);  // doubles the buckets as far as segments allow

  // --- Without the lock:

  // Runs given back to the reserve so far; sleeps until there are more than `seen`, or the time is
  // up.
  std::uint32_t reserve_returns() const;
  void wait_for_reserve(std::uint32_t seen, std::uint64_t timeout_ns) const;

  // True if some slot says that it waits for an answer (seq_cst; see handoff in the docs).
  bool anyone_waiting() const;

  // True while a slot has the turn: other slots' deltas are not decided before it ends.
  bool turn_lasts() const;
  // Sleeps until that turn ends, or earlier; not at all when there is none.
  void wait_for_turn(std::uint64_t timeout_ns) const;

  LockHolder holder() const;

  // Sleeps until there is something for the janitor (backlog) or the time is up. While a backlog
  // stays (pinned versions), this paces its next look. False: timed out.
  bool wait_for_backlog(std::uint64_t timeout_ns) const;
  // Deltas of other slots answered by this arbiter so far.
  std::uint64_t combined() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

inline constexpr std::uint8_t kDirectoryClass = 0xFE;

}  // namespace theus::shm
