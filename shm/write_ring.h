// The ring of committed writes: which keys each of the last commits wrote, and of which mappings it
// changed the set of keys. It answers, for a read set that held at some version, what of it can
// have changed since (read_set.h), without looking at the read set.
//
// Who writes: the lock owner, within a delta's step. Who reads: lock owners only, between steps.
// Order: entry, then `ring_next` (journalled), then the clock. A death before the clock leaves
// entries at and above `ring_next`, which nobody looks at and the next delta overwrites. Below
// `ring_next` versions never fall.
//
// Those abandoned entries have overwritten what stood a whole ring before. One delta writes at most
// kRingPerDelta, so readers leave that many of the oldest positions alone. A delta that writes more
// keys ends with an entry without a subject: ask everything again.
#pragma once

#include <cstdint>
#include <optional>

#include "shm/journal.h"
#include "shm/space.h"

namespace theus::shm {

inline constexpr std::uint64_t kRingPerDelta = 512;

class WriteRing {
 public:
  WriteRing(const Space& space, StepJournal& journal) : space_(space), journal_(journal) {}

  // Before the first note() of a delta that will be `version`.
  void begin(std::uint64_t version) {
    version_ = version;
    begin_ = next_ = end();
  }
  // The delta has written the key, or changed the set of keys of the node, that `subject` names.
  void note(Link subject) {
    if (next_ - begin_ == kRingPerDelta) return;
    if (next_ - begin_ == kRingPerDelta - 1) subject = Link();
    Header& header = space_.writable();
    CommittedWrite& entry = header.ring[next_ % kCommitRing];
    // Nobody looks at positions from ring_next on: the entry itself needs no undo.
    entry.version.store(version_, std::memory_order_release);
    entry.subject.store(subject.raw, std::memory_order_release);
    journal_.set_often(header.ring_next, ++next_);
  }

  struct Entry {
    std::uint64_t version = 0;
    Link subject;  // of a KeyRecord or a NodeRecord; null: more than fit in here
  };
  // Positions run from first_above() to end(). nullopt: what came right after `version` may have
  // been overwritten.
  std::optional<std::uint64_t> first_above(std::uint64_t version) const;
  std::uint64_t end() const { return space_.header().ring_next.load(std::memory_order_relaxed); }
  Entry at(std::uint64_t position) const;

 private:
  const Space& space_;
  StepJournal& journal_;
  std::uint64_t version_ = 0;
  std::uint64_t begin_ = 0;
  std::uint64_t next_ = 0;
};

}  // namespace theus::shm
