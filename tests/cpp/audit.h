// Reads a whole state and checks every invariant of its structures: what a death may leave half
// done shows here. For tests: stops everything (holds the lock), allocates freely.
#pragma once

#include <string>
#include <vector>

#include "tests/cpp/harness.h"

namespace theus::testing {

struct Audit {
  std::vector<std::string> faults;  // empty: all is well
  std::size_t live_leaves = 0;      // alive records that hold no mapping
  std::size_t records = 0;          // all that are kept
  std::size_t held_cells = 0;       // unlinked cells, by owner
  std::string text() const;
};

// `at_rest`: every worker has been evicted; then no extent may have an owner.
Audit audit(World& world, bool at_rest);

}  // namespace theus::testing
