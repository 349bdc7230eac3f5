#include "shm/index.h"

#include <bit>
#include <cstring>

#include <xxhash.h>

namespace theus::shm {
namespace {

// More than any chain between two buckets can be in an index that is not damaged.
constexpr std::uint64_t kHopsMax = 1ull << 30;
// A reader is thrown back only by a change under its feet; this many in a row is damage.
constexpr std::uint32_t kRestartsMax = 1u << 20;

const Word* entry_readable(const Space& space, std::uint32_t bucket) {
  const Header& header = space.header();
  const std::uint32_t extent =
      header.directory[bucket / kBucketsPerSegment].load(std::memory_order_acquire);
  if (extent == 0) return nullptr;
  const std::uint64_t offset = header.extents_offset.load(std::memory_order_relaxed) +
                               std::uint64_t{extent - 1} * kExtentBytes +
                               (bucket % kBucketsPerSegment) * sizeof(Word);
  return reinterpret_cast<const Word*>(space.at(offset, sizeof(Word)));
}

constexpr std::uint32_t parent_bucket(std::uint32_t bucket) {
  return bucket & ~std::bit_floor(bucket);
}

std::uint64_t load_word(const char* data) {
  std::uint64_t word = 0;
  std::memcpy(&word, data, 8);
  return word;
}

// The first `bytes` bytes (1 to 7) as a number, without a copy of variable length: that would
// go through the stack byte by byte and stall the load after it.
std::uint64_t load_tail(const char* data, std::size_t bytes) {
  if (bytes >= 4) {
    std::uint32_t low = 0, high = 0;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + bytes - 4, 4);
    return low | std::uint64_t{high} << (bytes - 4) * 8;
  }
  const auto byte = [data](std::size_t i) {
    return std::uint64_t{static_cast<unsigned char>(data[i])} << i * 8;
  };
  return byte(0) | byte(bytes / 2) | byte(bytes - 1);
}

}  // namespace

std::uint64_t hash_key(std::uint64_t seed, std::uint64_t node, KeyView key) {
  return XXH3_64bits_withSeed(key.data, key.compared, seed ^ (node * 0x9E3779B97F4A7C15ull));
}

std::uint64_t reverse_bits(std::uint64_t value) {
  value = __builtin_bswap64(value);
  value = (value & 0x0F0F0F0F0F0F0F0Full) << 4 | (value >> 4 & 0x0F0F0F0F0F0F0F0Full);
  value = (value & 0x3333333333333333ull) << 2 | (value >> 2 & 0x3333333333333333ull);
  return (value & 0x5555555555555555ull) << 1 | (value >> 1 & 0x5555555555555555ull);
}

bool same_key(const KeyRecord& record, KeyView key) {
  const KeyShape shape = KeyShape::unpack(record.shape.load(std::memory_order_acquire));
  // A record under refill may show any length; the caller checks its generation afterwards, and
  // bytes up to the longest key are inside the segment (extents end it at a multiple of 64 KiB).
  if (shape.compared != key.compared || shape.compared > kMaxKeyBytes) return false;
  std::size_t word = 0;
  std::size_t left = key.compared;
  for (; left >= 8; left -= 8, ++word) {
    if (record.words()[word].load(std::memory_order_acquire) != load_word(key.data + word * 8)) {
      return false;
    }
  }
  if (left == 0) return true;
  const std::uint64_t mask = ~std::uint64_t{0} >> (64 - left * 8);
  return (record.words()[word].load(std::memory_order_acquire) & mask) ==
         load_tail(key.data + word * 8, left);
}

FoundKey find_key(const Space& space, std::uint64_t node, KeyView key, std::uint64_t hash) {
  const Header& header = space.header();
  const std::uint64_t sort = key_sort(hash);
  for (std::uint32_t restart = 0; restart < kRestartsMax; ++restart) {
    const std::uint32_t bits = header.bucket_bits.load(std::memory_order_acquire);
    auto bucket = static_cast<std::uint32_t>(hash & ((1ull << (bits & 31)) - 1));
    Link at;
    while (true) {
      const Word* word = entry_readable(space, bucket);
      if (word != nullptr) at = Link(word->load(std::memory_order_acquire));
      if (at || bucket == 0) break;
      bucket = parent_bucket(bucket);
    }
    bool again = !at;
    for (std::uint64_t hop = 0; !again && hop < kHopsMax; ++hop) {
      if (at == kListEnd) return {};
      if (at.is_marker()) {
        if (marker_sort(at.unit()) > sort) return {};
        const Word* word = entry_readable(space, at.unit());
        at = word != nullptr ? Link(word->load(std::memory_order_acquire)) : Link();
        again = !at;  // the marker was taken back by a repair
        continue;
      }
      const auto* record = space.cell<KeyRecord>(at);
      if (record == nullptr) {
        again = true;
        continue;
      }
      const std::uint64_t here = record->sort.load(std::memory_order_acquire);
      const Link next(record->next.load(std::memory_order_acquire));
      const bool match = here == sort && record->node.load(std::memory_order_acquire) == node &&
                         same_key(*record, key);
      if (record->cell.generation.load(std::memory_order_acquire) != at.generation()) {
        again = true;
      } else if (match) {
        return {record, at};
      } else if (here > sort) {
        return {};
      } else {
        at = next;
        again = !at;
      }
    }
  }
  FoundKey unsettled;
  unsettled.unsettled = true;
  return unsettled;
}

Word* Index::entry(std::uint32_t bucket) const {
  return const_cast<Word*>([&]() -> const Word* {
    const Word* readable = entry_readable(space_, bucket);
    if (readable == nullptr) return nullptr;
    const auto offset = reinterpret_cast<const std::byte*>(readable) - space_.readable_base();
    return reinterpret_cast<const Word*>(space_.writable_base() + offset);
  }());
}

Word* Index::nearest(std::uint32_t bucket) const {
  while (bucket != 0) {
    Word* word = entry(bucket);
    if (word != nullptr && word->load(std::memory_order_relaxed) != 0) return word;
    bucket = parent_bucket(bucket);
  }
  return entry(0);
}

Word* Index::advance(Word* word, std::uint64_t sort, Link stop) const {
  for (std::uint64_t hop = 0; hop < kHopsMax; ++hop) {
    const Link at(word->load(std::memory_order_relaxed));
    if (at == stop || at == kListEnd || !at) return word;
    if (at.is_marker()) {
      if (marker_sort(at.unit()) > sort) return word;
      word = entry(at.unit());
      continue;
    }
    auto* record = space_.writable_cell<KeyRecord>(at.unit());
    if (record->sort.load(std::memory_order_relaxed) > sort) return word;
    word = &record->next;
  }
  return word;
}

Word* Index::usable_bucket(std::uint64_t hash) {
  const std::uint32_t bits = space_.header().bucket_bits.load(std::memory_order_relaxed);
  const auto bucket = static_cast<std::uint32_t>(hash & ((1ull << (bits & 31)) - 1));
  Word* word = entry(bucket);
  if (word == nullptr) return nearest(bucket);
  if (word->load(std::memory_order_relaxed) != 0) return word;
  // Its ancestors first, the highest one down: each then has only the keys between itself and the
  // next bucket to pass. (Setting up only this one would walk half the list after each growth.)
  std::uint32_t unset[32];
  std::uint32_t count = 0;
  for (std::uint32_t b = bucket; b != 0 && count < 32; b = parent_bucket(b)) {
    const Word* each = entry(b);
    if (each != nullptr && each->load(std::memory_order_relaxed) != 0) break;
    if (each != nullptr) unset[count++] = b;
  }
  while (count > 0) set_up(unset[--count]);
  return word;
}

// The bucket's entry continues where the list goes on behind its place, then the element before
// that place links to the marker. In this order a reader that meets the marker finds the entry;
// one that started at the entry finds the rest of the list.
void Index::set_up(std::uint32_t bucket) {
  Word* before = advance(nearest(parent_bucket(bucket)), marker_sort(bucket), Link());
  journal_.set(*entry(bucket), before->load(std::memory_order_relaxed));
  journal_.set(*before, Link::marker(bucket).raw);
}

std::uint32_t Index::find(std::uint64_t node, KeyView key, std::uint64_t hash) const {
  const std::uint64_t sort = key_sort(hash);
  const std::uint32_t bits = space_.header().bucket_bits.load(std::memory_order_relaxed);
  Word* word = nearest(static_cast<std::uint32_t>(hash & ((1ull << (bits & 31)) - 1)));
  for (std::uint64_t hop = 0; hop < kHopsMax; ++hop) {
    const Link at(word->load(std::memory_order_relaxed));
    if (at == kListEnd || !at) return 0;
    if (at.is_marker()) {
      if (marker_sort(at.unit()) > sort) return 0;
      word = entry(at.unit());
      continue;
    }
    auto* record = space_.writable_cell<KeyRecord>(at.unit());
    const std::uint64_t here = record->sort.load(std::memory_order_relaxed);
    if (here > sort) return 0;
    if (here == sort && record->node.load(std::memory_order_relaxed) == node &&
        same_key(*record, key)) {
      return at.unit();
    }
    word = &record->next;
  }
  return 0;
}

void Index::insert(Link link) {
  auto* record = space_.writable_cell<KeyRecord>(link.unit());
  const std::uint64_t sort = record->sort.load(std::memory_order_relaxed);
  Word* before = advance(usable_bucket(reverse_bits(sort)), sort, Link());
  record->next.store(before->load(std::memory_order_relaxed), std::memory_order_release);
  journal_.set(*before, link.raw);
  Word& count = space_.writable().key_count;
  journal_.set(count, count.load(std::memory_order_relaxed) + 1);
}

void Index::remove(Link link) {
  auto* record = space_.writable_cell<KeyRecord>(link.unit());
  const std::uint64_t sort = record->sort.load(std::memory_order_relaxed);
  const std::uint32_t bits = space_.header().bucket_bits.load(std::memory_order_relaxed);
  const auto bucket =
      static_cast<std::uint32_t>(reverse_bits(sort) & ((1ull << (bits & 31)) - 1));
  Word* before = advance(nearest(bucket), sort, link);
  if (before->load(std::memory_order_relaxed) != link.raw) return;  // not in the list
  journal_.set(*before, record->next.load(std::memory_order_relaxed));
  Word& count = space_.writable().key_count;
  journal_.set(count, count.load(std::memory_order_relaxed) - 1);
}

bool Index::wants_growth(const Header& header, std::uint64_t keys) {
  const std::uint32_t bits = header.bucket_bits.load(std::memory_order_relaxed);
  return bits < kMaxBucketBits && keys > (2ull << bits);
}

void Index::add_segment(std::uint64_t extent) {
  Header& header = space_.writable();
  const std::uint32_t ready = header.segments_ready.load(std::memory_order_relaxed);
  journal_.set(header.directory[ready], static_cast<std::uint32_t>(extent + 1));
  journal_.set(header.segments_ready, ready + 1);
}

void Index::double_buckets(std::uint64_t keys) {
  Header& header = space_.writable();
  for (std::uint32_t i = 0; i < kMaxBucketBits && wants_growth(header, keys); ++i) {
    const std::uint32_t bits = header.bucket_bits.load(std::memory_order_relaxed);
    const std::uint64_t needed = ((2ull << bits) + kBucketsPerSegment - 1) / kBucketsPerSegment;
    if (header.segments_ready.load(std::memory_order_relaxed) < needed) return;
    journal_.set(header.bucket_bits, bits + 1);
  }
}

}  // namespace theus::shm
