// What differs between two versions of one state.
//
// Decided by versions and structure alone: no value is looked at. A value that was written again
// differs, also if it is equal. A mapping that lies in both versions is entered if anything below
// it was written after the older one; all others are passed over as a whole.
//
// Cost: what is found, and the entries of the mappings that are entered.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/transaction.h"

namespace theus::worker {

struct Found;  // reader.h

enum class Change : std::uint8_t { kAdded, kReplaced, kRemoved };

// Walks depth first: of each mapping, what the newer version has, in its order, then what only the
// older one had, in that one's. What lies below a mapping that was added, replaced or removed is
// not told apart from it.
//
// Thread safety: as for the snapshots, which have to stay open.
class Difference {
 public:
  // Throws Error unless both are of one state, `older` is no newer than `newer`, and both are open.
  Difference(const Snapshot& older, const Snapshot& newer);

  bool next();  // false: the end
  Change change() const { return change_; }
  // From the root on, as next() has left it. The bytes live as long as the snapshots.
  const std::vector<KeyView>& path() const { return path_; }

 private:
  // One mapping on the way, which lies in both versions.
  struct Level {
    Snapshot::Cursor cursor;
    bool removals = false;  // the newer version's entries are done, the older one's are looked at
  };

  bool step();
  void end_of_entries();
  bool look_for_news(std::uint64_t node, const Found& found);
  bool look_for_removal(std::uint64_t node, const Found& found);

  const Snapshot& older_;
  const Snapshot& newer_;
  std::vector<Level> levels_;  // the root's first
  std::vector<KeyView> path_;  // to the last of them, and behind it what next() has found
  bool found_ = false;
  Change change_ = Change::kAdded;
};

}  // namespace theus::worker
