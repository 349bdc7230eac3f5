#include "worker/difference.h"

#include "worker/reader.h"

namespace theus::worker {
namespace {

constexpr auto kAcquire = std::memory_order_acquire;

const shm::NodeRecord& node_record(const Snapshot& snapshot, std::uint64_t node) {
  const auto* record = snapshot.space().cell<shm::NodeRecord>(shm::Link(node));
  if (record == nullptr) throw Error("shared memory is damaged: a mapping node lies outside");
  return *record;
}

// The version fields of a node may be those of a commit that is under way, or of one after the
// newer version: then it is walked for nothing. They are never below what the newer version sees,
// whose clock was loaded after they had been stored.
bool is_changed_below(const shm::NodeRecord& node, std::uint64_t since) {
  return node.below_version.load(kAcquire) > since;
}
bool has_other_keys(const shm::NodeRecord& node, std::uint64_t since) {
  return node.structure_version.load(kAcquire) > since;
}

bool is_visible(const Snapshot& snapshot, std::uint64_t node, KeyView key) {
  const std::uint64_t seed = snapshot.space().header().hash_seed.load(std::memory_order_relaxed);
  return lookup(snapshot.space(), node, key, shm::hash_key(seed, node, key), snapshot.version())
      .visible;
}

// Each state has a random number of its own.
bool is_one_state(const Snapshot& one, const Snapshot& other) {
  return one.space().header().hash_seed.load(std::memory_order_relaxed) ==
         other.space().header().hash_seed.load(std::memory_order_relaxed);
}

}  // namespace

Difference::Difference(const Snapshot& older, const Snapshot& newer)
    : older_(older), newer_(newer) {
  if (!is_one_state(older, newer)) {
    throw Error("the two versions are not of one state: the coordinator was started anew between");
  }
  if (older.version() > newer.version()) throw Error("the older version comes first");
  older_.iterate(older_.root());  // throws if it is closed
  if (older.version() < newer.version()) levels_.push_back({newer_.iterate(newer_.root())});
}

bool Difference::next() {
  if (found_) path_.pop_back();
  found_ = false;
  while (!levels_.empty() && !found_) found_ = step();
  return found_;
}

// Looks at one entry of the innermost mapping. True: it differs, and `path_` leads to it.
bool Difference::step() {
  Level& level = levels_.back();
  const Snapshot& walked = level.removals ? older_ : newer_;
  Found found;
  if (!next_entry(walked.space(), walked.version(), level.cursor, &found)) {
    end_of_entries();
    return false;
  }
  path_.push_back(key_of(*found.key));
  const std::uint64_t node = level.cursor.node;
  return level.removals ? look_for_removal(node, found) : look_for_news(node, found);
}

void Difference::end_of_entries() {
  Level& level = levels_.back();
  const std::uint64_t node = level.cursor.node;
  if (!level.removals && has_other_keys(node_record(newer_, node), older_.version())) {
    level = {older_.iterate(node), true};
    return;
  }
  levels_.pop_back();
  if (!path_.empty()) path_.pop_back();
}

bool Difference::look_for_news(std::uint64_t node, const Found& found) {
  // Version 0 is as old as the node, which `older_` sees, too.
  if (found.seen.version > older_.version()) {
    change_ = is_visible(older_, node, path_.back()) ? Change::kReplaced : Change::kAdded;
    return true;
  }
  if (found.seen.shape.kind == shm::ValueKind::kNode &&
      is_changed_below(node_record(newer_, found.seen.value), older_.version())) {
    levels_.push_back({newer_.iterate(found.seen.value)});  // its end takes the key off the path
  } else {
    path_.pop_back();
  }
  return false;
}

bool Difference::look_for_removal(std::uint64_t node, const Found& found) {
  // What died and is there again has been reported as replaced.
  const std::uint64_t died_at = found.seen.died_at;
  if (died_at != 0 && died_at <= newer_.version() && !is_visible(newer_, node, path_.back())) {
    change_ = Change::kRemoved;
    return true;
  }
  path_.pop_back();
  return false;
}

}  // namespace theus::worker
