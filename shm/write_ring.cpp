#include "shm/write_ring.h"

#include <algorithm>

namespace theus::shm {

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
