// What conflicts is in docs/architecture.md, "Committing", seen here from the other side: a write
// of what was read or written, a key that comes or goes in a mapping whose keys were read, a write
// below what was replaced or deleted. Replacing an ancestor is a write of its binding, which
// whoever has been below it has looked up.
#include "worker/footprint.h"

#include <algorithm>

namespace theus::worker {
namespace {

constexpr std::size_t kEntriesMax = 10'000;  // a larger footprint is not worth its memory

// A number that is folded onto whatever is newest, and was not looked at.
bool only_folds(const Entry& entry) {
  return entry.fold != shm::Fold::kNone && !entry.read && !entry.presence_read;
}

bool changes_keys(const Entry& entry) {
  return !entry.present_in_snapshot || entry.moved || entry.value.kind == Value::Kind::kAbsent;
}

// Which keys there are, or which is the last of them.
bool read_keys(const Mapping& mapping) {
  return mapping.read_structure || mapping.read_emptiness || mapping.last_place != 0;
}

// The same two questions of what is expected and of what has been done.
struct Expected {
  const Footprint& footprint;

  static bool has(const std::vector<std::uint64_t>& list, std::uint64_t which) {
    return std::binary_search(list.begin(), list.end(), which);
  }
  bool touched(std::uint64_t hash) const { return has(footprint.touched, hash); }
  bool written(std::uint64_t hash) const { return has(footprint.written, hash); }
  bool listed(const Mapping& mapping) const { return has(footprint.listed, mapping.node); }
};

struct Done {
  const Transaction::State& s;

  bool touched(std::uint64_t hash) const {
    const Entry* entry = s.table.find(hash);
    return entry != nullptr && !only_folds(*entry);
  }
  bool written(std::uint64_t hash) const {
    const Entry* entry = s.table.find(hash);
    return entry != nullptr && entry->written;
  }
  bool listed(const Mapping& mapping) const {
    const Mapping* own = s.root;
    if (mapping.bound_at != nullptr) {
      const Entry* binding = s.table.find(mapping.bound_at->hash);
      own = binding != nullptr ? binding->child : nullptr;
    }
    return own != nullptr && read_keys(*own);
  }
};

template <class Known>
const Entry* meets_known(const Known& known, const Transaction::State& writer) {
  for (const Entry* entry : writer.written) {
    if (known.touched(entry->hash)) return entry;
    if (changes_keys(*entry) && known.listed(*entry->mapping)) return entry;
    for (const Entry* above = entry->mapping->bound_at; above != nullptr;
         above = above->mapping->bound_at) {
      if (known.written(above->hash)) return entry;
    }
  }
  return nullptr;
}

void sort_all(Footprint* footprint) {
  for (auto* list : {&footprint->touched, &footprint->written, &footprint->listed}) {
    std::sort(list->begin(), list->end());
  }
}

}  // namespace

Footprint footprint_of(const Transaction::State& s) {
  Footprint footprint;
  footprint.everything = s.entries.size() + s.mappings.size() > kEntriesMax;
  if (footprint.everything) return footprint;
  for (const Entry* entry : s.entries) {
    // Keys of a mapping that is new are nobody else's.
    if (entry->mapping->node == 0 || only_folds(*entry)) continue;
    footprint.touched.push_back(entry->hash);
    if (entry->written) footprint.written.push_back(entry->hash);
  }
  for (const Mapping* mapping : s.mappings) {
    if (mapping->node == 0 || !read_keys(*mapping)) continue;
    footprint.listed.push_back(mapping->node);
  }
  sort_all(&footprint);
  return footprint;
}

const Entry* meets(const Footprint& expected, const Transaction::State& writer) {
  if (expected.everything && !writer.written.empty()) return writer.written.front();
  return meets_known(Expected{expected}, writer);
}

const Entry* meets(const Transaction::State& other, const Transaction::State& writer) {
  return meets_known(Done{other}, writer);
}

}  // namespace theus::worker
