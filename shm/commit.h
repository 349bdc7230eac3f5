// Deciding one delta: check everything it rests on, apply it in one journalled step, store the
// clock. Lock held.
//
// Order, and what a death there leaves: `assigned` (repair clears it) - journal entries and words
// (repair restores them) - clock (the commit) - answer (repair finishes it from `assigned`) -
// `assigned` cleared. Readers see nothing of it before the clock: every record that it links has a
// version above theirs, every death a date above it.
#pragma once

#include <cstdint>
#include <utility>

#include "shm/delta.capnp.h"
#include "shm/reclaim.h"
#include "shm/tables.h"

namespace theus::shm {

struct Decision {
  Outcome outcome = Outcome::kNone;
  std::uint64_t version = 0;  // committed, or the winner's where it is known
  std::uint32_t index = 0;    // of a conflict: checks, absences, operations, deletes
};

class Committer {
 public:
  Committer(Tables& tables, Reclaimer& reclaimer) : tables_(tables), reclaimer_(reclaimer) {}

  // Decides the delta in `slot`'s submission area and, if it commits, publishes it. Never throws.
  Decision decide(std::uint32_t slot) noexcept;

  // Links a part of what lies below a filled node, about kPrelinkKeys keys, before the delta that
  // binds the node is submitted, so that no lock is held for long however much is new. Until it is
  // bound the node stands in its worker's nursery, from where it goes to the dead queue if the
  // worker gives up or dies. A step of its own. kBad: nothing was done.
  enum class Prelinked : std::uint8_t { kMore, kDone, kBad };
  Prelinked prelink(std::uint32_t slot, Link node) noexcept;
  // Sends what is left in a nursery to the dead queue; one node a call. False: it was empty.
  bool bury_nursery(std::uint32_t slot);

  // True once after a commit superseded a block of whole extents: memory worth having back soon.
  bool take_urgent() { return std::exchange(urgent_, false); }

 private:
  enum class Applied : std::uint8_t { kDone, kConflict, kBad };

  Decision decide_message(std::uint32_t slot, wire::Delta::Reader delta);
  bool check(wire::Check::Reader check, std::uint64_t snapshot, std::uint64_t* winner);
  bool check_absence(wire::Absence::Reader absence, std::uint64_t* winner);
  Applied apply(wire::Operation::Reader operation, std::uint64_t* winner);
  Applied apply_delete(Link key_link, std::uint64_t* winner);
  Applied replace(std::uint32_t node_unit, std::uint32_t key_unit, Link record, std::uint32_t spare,
                  bool moved, std::uint64_t* winner);
  Applied insert(std::uint32_t node_unit, wire::Operation::Reader operation,
                 std::uint64_t* winner);
  Applied remove(std::uint32_t node_unit, std::uint32_t key_unit, std::uint64_t* winner);
  bool changed_since(std::uint32_t key_unit, std::uint64_t* winner) const;

  // True if `link` names a cell that this delta's worker has filled and not yet given away.
  bool owns(Link link, bool (*fits)(std::uint8_t cell_class)) const;
  // True if `link` names a cell of that kind that is part of the state. *gone: it was one once.
  bool names(Link link, bool (*fits)(std::uint8_t cell_class), bool* gone) const;
  bool well_formed(Link record) const;
  bool well_formed_key(Link key) const;
  std::uint32_t usable_spare(Link chunk) const;
  bool link_record(Link record, Link key_link, std::uint64_t version);
  bool link_tree(Link node, Link bound_to);
  bool link_pending(std::uint32_t pending, std::uint64_t* keys);
  bool link_chunk(std::uint32_t node_unit, Link chunk_link, std::uint32_t prev,
                  std::uint64_t* count, std::uint32_t* pending);
  bool leave_nursery(Link node, Link bound_to);
  bool link_entry(std::uint32_t node_unit, Link key_link, std::uint32_t chunk_unit,
                  std::uint32_t place, std::uint32_t* pending);
  bool finish_entry(Link key_link);
  void raise_below(std::uint32_t node_unit);
  void note_write(std::uint32_t key_unit);
  void superseded(const VersionRecord& record);

  Tables& tables_;
  Reclaimer& reclaimer_;
  // The delta under work.
  std::uint32_t slot_ = 0;
  std::uint64_t snapshot_ = 0;
  std::uint64_t version_ = 0;
  bool urgent_ = false;
};

}  // namespace theus::shm
