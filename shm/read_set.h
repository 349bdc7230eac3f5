// Whether what a delta rests on is still so. Lock held, nothing is changed.
//
// A small read set is checked one by one. A large one its worker has checked itself, without the
// lock, as of a version that it names; here only what has been written since is checked again. The
// ring of committed writes says what that is, so the work under the lock grows with the commits in
// between and not with the read set: at most kRingWalk and one delta's worth of entries, each a
// binary search, and a full check for each hit. What is left goes back with the version up to
// which all of it has been seen to hold, and the worker submits it again from there.
//
// Why that is enough. A check fails now only if somebody has changed its subject. If the last one
// who did is at or below `validatedAt`, the worker has seen his work (worker/validate.h). If he is
// above, the ring has his entry: every operation enters its key, and the first change of a node's
// set of keys in a delta enters the node. Two kinds of writes are not in the ring. Keys of a
// mapping that came with its delta: nobody can have looked for a key in a node that no snapshot
// had. And reclamation, which changes nothing that a pin can see; a key whose record is gone was
// dead, so for an absence its entries say nothing, and what is read alive is kept by the worker's
// own pin.
#pragma once

#include <cstdint>

#include "shm/decision.h"
#include "shm/delta.capnp.h"
#include "shm/tables.h"
#include "shm/write_ring.h"

namespace theus::shm {

inline constexpr std::uint64_t kRingWalk = 512;  // entries; then on to the end of their delta
// Checks of one subject, and absences of one sort word: a key can be read in two ways, and hashes
// can collide. No honest delta has more; the bound keeps a hostile one from a long hold.
inline constexpr std::uint32_t kAlikeMax = 4;
// Places of dead entries, at the ends of mappings, that are passed for one delta.
inline constexpr std::uint32_t kPlacesPerDelta = 1024;

class ReadSet {
 public:
  ReadSet(const Tables& tables, const WriteRing& ring) : tables_(tables), ring_(ring) {}

  // Outcome::kNone: all of it holds at `clock`, the newest version. Otherwise the answer.
  // Throws what Cap'n Proto throws at a malformed message.
  Decision check(wire::Delta::Reader delta, std::uint64_t clock);
  // Checks and absences, validated or not: what a Decision's index counts before operations.
  static std::uint32_t size(wire::Delta::Reader delta);

 private:
  bool holds(wire::Check::Reader check, std::uint64_t* winner) const;
  bool is_last(const NodeRecord& node, std::uint64_t place) const;
  bool holds(wire::Absence::Reader absence, std::uint64_t* winner) const;
  Decision check_written_since(wire::Delta::Reader delta, std::uint64_t clock) const;

  const Tables& tables_;
  const WriteRing& ring_;
  std::uint64_t snapshot_ = 0;
  mutable std::uint32_t places_left_ = 0;  // to be looked at for this delta by is_last()
};

}  // namespace theus::shm
