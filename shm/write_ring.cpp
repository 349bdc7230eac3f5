#include "shm/write_ring.h"

#include <algorithm>

namespace theus::shm {

void WriteRing::begin(std::uint64_t version) {
  version_ = version;
  begin_ = next_ = end();
}

void WriteRing::note(Link subject) {
  if (next_ - begin_ == kRingPerDelta) return;
  if (next_ - begin_ == kRingPerDelta - 1) subject = Link();
  Header& header = space_.writable();
  CommittedWrite& entry = header.ring[next_ % kCommitRing];
  // Nobody looks at positions from ring_next on: the entry itself needs no undo.
  entry.version.store(version_, std::memory_order_release);
  entry.subject.store(subject.raw, std::memory_order_release);
  if (next_ == begin_) {
    journal_.set(header.ring_next, next_ + 1);
  } else {
    journal_.set_again(header.ring_next, next_ + 1);
  }
  ++next_;
}

std::uint64_t WriteRing::end() const {
  return space_.header().ring_next.load(std::memory_order_relaxed);
}

WriteRing::Entry WriteRing::at(std::uint64_t position) const {
  const CommittedWrite& entry = space_.header().ring[position % kCommitRing];
  return {entry.version.load(std::memory_order_relaxed),
          Link(entry.subject.load(std::memory_order_relaxed))};
}

std::optional<std::uint64_t> WriteRing::first_above(std::uint64_t version) const {
  const std::uint64_t last = end();
  const std::uint64_t first = last - std::min(last, kCommitRing - kRingPerDelta);
  // The first position whose version is above: versions never fall.
  std::uint64_t low = first, high = last;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (at(middle).version > version) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  // Nothing at or below `version` is left: there may have been more above it.
  if (low == first && first > 0) return std::nullopt;
  return low;
}

}  // namespace theus::shm
