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

#include "shm/decision.h"
#include "shm/delta.capnp.h"
#include "shm/linker.h"
#include "shm/read_set.h"
#include "shm/reclaim.h"
#include "shm/tables.h"
#include "shm/write_ring.h"

namespace theus::shm {

class Committer {
 public:
  Committer(Tables& tables, Linker& linker, Reclaimer& reclaimer)
      : tables_(tables),
        linker_(linker),
        reclaimer_(reclaimer),
        ring_(tables.space, tables.journal),
        read_set_(tables, ring_) {}

  // Decides the delta in `slot`'s submission area and, if it commits, publishes it. Never throws.
  Decision decide(std::uint32_t slot) noexcept;

  // True once after a commit superseded a block of whole extents: memory worth having back soon.
  bool take_urgent() { return std::exchange(urgent_, false); }

 private:
  enum class Applied : std::uint8_t { kDone, kConflict, kBad };

  Decision decide_message(std::uint32_t slot, wire::Delta::Reader delta);
  Applied apply(wire::Operation::Reader operation, std::uint64_t* winner);
  Applied apply_delete(Link key_link, std::uint64_t* winner);
  Applied replace(std::uint32_t node_unit, std::uint32_t key_unit,
                  wire::Operation::Reader operation, std::uint64_t* winner);
  Applied insert(std::uint32_t node_unit, wire::Operation::Reader operation,
                 std::uint64_t* winner);
  Applied remove(std::uint32_t node_unit, std::uint32_t key_unit, std::uint64_t* winner);
  Applied fill(VersionRecord& record, const VersionRecord* newest,
               wire::Operation::Reader operation) const;
  bool changed_since(std::uint32_t key_unit, std::uint64_t basis, std::uint64_t* winner) const;
  void raise_below(std::uint32_t node_unit);
  void change_keys(std::uint32_t node_unit, int by);
  void note_write(Link key);
  void superseded(const VersionRecord& record);

  Tables& tables_;
  Linker& linker_;
  Reclaimer& reclaimer_;
  WriteRing ring_;
  ReadSet read_set_;
  // The delta under work.
  std::uint64_t snapshot_ = 0;
  std::uint64_t version_ = 0;
  bool urgent_ = false;
};

}  // namespace theus::shm
