// Reclamation: versions that no pin can see go, and what hung from them.
//
// A record may go when it has died at or below the scan's clock and no snapshot pin lies in
// [version, died_at), and no held view pins its block. Keys with superseded versions stand in the
// retained queue; nodes whose binding has gone stand in the dead queue. Each call takes a bounded
// number of them, in journalled steps of their own (kNoVersion): a death in the middle of a step
// undoes that step, and the queues still name what is left. What is still pinned goes to the end
// of its queue, so that one old pin does not keep everything behind it.
//
// Lock held.
#pragma once

#include <array>
#include <cstdint>

#include "shm/pins.h"
#include "shm/tables.h"

namespace theus::shm {

class Reclaimer {
 public:
  explicit Reclaimer(Tables& tables) : tables_(tables) {}

  // Scans the pins and handles at most about `records_max` records. False when a round is over:
  // what stood in both queues when it began has been visited once, over however many calls.
  bool run(std::uint32_t records_max);
  // After run() was false: whether that round has found anything that could go.
  bool round_found() const { return round_progress_; }

  // Keys that this process has written lately are pruned first in each run, wherever they stand in
  // the queue: a hot key does not wait behind all that are pinned.
  void note(Link key) { recent_[recent_next_++ % recent_.size()] = key; }

  const PinScan& scan() const { return scan_; }

 private:
  struct Pruned {
    std::uint32_t freed = 0;
    std::uint32_t kept = 0;      // superseded, but pinned
    bool unfinished = false;     // stopped by the budget
  };
  Pruned prune_chain(std::uint32_t key_unit, std::uint32_t records_max);
  bool removable(const VersionRecord& record) const;
  void release_record(std::uint32_t unit);
  void prune_recent();
  void step_retained();
  bool step_dead();
  bool free_dead_key(std::uint32_t node_unit, Link chunk, std::uint32_t place);
  bool holds_pinned_block(const KeyRecord& key) const;

  Tables& tables_;
  PinScan scan_;
  std::array<Link, 64> recent_{};
  std::size_t recent_next_ = 0;
  std::uint32_t budget_ = 0;
  bool progress_ = false;
  // The round: what is left to visit of what stood in the queues when it began.
  std::uint64_t keys_left_ = 0;
  std::uint64_t nodes_left_ = 0;
  bool round_progress_ = false;
};

}  // namespace theus::shm
