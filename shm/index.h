// The index: from (node, key) to its KeyRecord. A split-ordered list (Shalev and Shavit, "Split-
// ordered lists: lock-free extensible hash tables", 2006), with one writer at a time.
//
// All KeyRecords stand in one singly linked list, ordered by the bit-reversed hash. Bucket b's
// entry in the directory is the link to the first element at or after the bucket's place; the list
// runs *through* that entry: the element before it links to marker b, whose continuation is the
// directory entry itself. So a bucket marker costs the 8 bytes of its entry, no node ever moves,
// and the directory grows by one number (`bucket_bits`). A bucket whose entry is 0 has not been
// set up: its keys are found from an ancestor's entry (the bucket without its highest bit).
//
// Writers (lock held, in a step): link and unlink single elements; set up a bucket.
// Readers (no lock): check the generation of each element after they have read it, and start
// again on a difference. A key that is in the list during the whole search is found: elements are
// never moved, and an element that has left the list keeps its `next` until its generation
// changes, so a reader standing on one either gets back into the list before any later key, or
// starts again.
#pragma once

#include <cstdint>

#include "shm/journal.h"
#include "shm/key.h"
#include "shm/space.h"

namespace theus::shm {

inline constexpr std::uint32_t kFirstBucketBits = 6;
inline constexpr std::uint32_t kMaxBucketBits = 29;
inline constexpr Link kListEnd = Link(kMarkerGeneration, 0xFFFFFFFFu);

// Hash of a key of a node. Seeded per coordinator: keys that collide on purpose need the seed.
std::uint64_t hash_key(std::uint64_t seed, std::uint64_t node, KeyView key);

// Place in the list: bit-reversed; keys odd, markers even.
std::uint64_t reverse_bits(std::uint64_t value);
inline std::uint64_t key_sort(std::uint64_t hash) { return reverse_bits(hash) | 1; }
inline std::uint64_t marker_sort(std::uint32_t bucket) { return reverse_bits(bucket); }

// KeyRecord::shape
struct KeyShape {
  std::uint16_t size;
  std::uint16_t compared;
  bool queued;
  static constexpr KeyShape unpack(std::uint32_t word) {
    return {static_cast<std::uint16_t>(word & 0xFFF),
            static_cast<std::uint16_t>(word >> 12 & 0xFFF), (word >> 24 & 1) != 0};
  }
  constexpr std::uint32_t pack() const {
    return size | std::uint32_t{compared} << 12 | std::uint32_t{queued} << 24;
  }
};

// True if the record's compared bytes are `key`'s. `words` is how many key words the cell has.
bool same_key(const KeyRecord& record, KeyView key);

// Reader side. No lock.
struct FoundKey {
  const KeyRecord* record = nullptr;  // nullptr: the key is in no version's list
  Link link;
  bool unsettled = false;  // thrown back so often that the index must be damaged
};
FoundKey find_key(const Space& space, std::uint64_t node, KeyView key, std::uint64_t hash);

// Writer side. Lock held, inside a step.
class Index {
 public:
  Index(const Space& space, StepJournal& journal) : space_(space), journal_(journal) {}

  // The unit of the key's record, 0 if it has none.
  std::uint32_t find(std::uint64_t node, KeyView key, std::uint64_t hash) const;
  // Links a filled KeyRecord (sort, node and key set); its `next` is written here.
  void insert(Link record);
  // Takes a record out of the list. Its own `next` stays as it is.
  void remove(Link record);

  // True if the directory should grow for `keys` keys.
  static bool wants_growth(const Header& header, std::uint64_t keys);
  // Puts a zeroed, backed extent into the directory; doubles the buckets when enough are there.
  void add_segment(std::uint64_t extent);
  // Doubles the buckets while the segments that exist allow it and `keys` keys want it.
  void double_buckets(std::uint64_t keys);

 private:
  Word* entry(std::uint32_t bucket) const;    // nullptr: no segment
  Word* usable_bucket(std::uint64_t hash);    // sets the bucket up if it can
  void set_up(std::uint32_t bucket);          // links its marker into the list
  Word* nearest(std::uint32_t bucket) const;  // entry of the nearest ancestor that is set up
  // The word that links to the first element with a place above `sort`, starting at `word`.
  Word* advance(Word* word, std::uint64_t sort, Link stop) const;

  const Space& space_;
  StepJournal& journal_;
};

}  // namespace theus::shm
