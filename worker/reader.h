// Lock-free reading at one version: from keys to values. Included by worker/*.cpp only.
#pragma once

#include <optional>

#include "shm/index.h"
#include "shm/versions.h"
#include "worker/ends.h"
#include "worker/transaction.h"

namespace theus::worker {

// What a key's lookup at a version yields. `key` may be null (the key has no record at all) and
// `seen` is meaningful only when `visible`.
struct Found {
  shm::Link key_link;
  const shm::KeyRecord* key = nullptr;
  bool visible = false;
  shm::SeenRecord seen;
};

// The caller's pin keeps what is visible at `version`.
Found lookup(const shm::Space& space, std::uint64_t node, KeyView key, std::uint64_t hash,
             std::uint64_t version);

// The value of a record that is visible at a pinned version. Throws Error on a damaged record.
Value value_of(const shm::Space& space, const shm::SeenRecord& seen);

// Next visible entry of an iteration. False: the end. `ends`: may be null.
bool next_entry(const shm::Space& space, std::uint64_t version, Snapshot::Cursor& cursor,
                Found* found, Ends* ends = nullptr);

// Key bytes as they stand in the record; they live as long as the key is visible to a pin.
KeyView key_of(const shm::KeyRecord& record);

// Live entries of a node at a version, if nothing has come or gone since.
std::optional<std::uint64_t> settled_count(const shm::Space& space, const shm::NodeRecord& node,
                                           std::uint64_t version);
// Live entries of a node at a version.
std::uint64_t count_entries(const shm::Space& space, std::uint64_t node, std::uint64_t version);

}  // namespace theus::worker
