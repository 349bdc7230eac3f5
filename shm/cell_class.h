// The size classes of cells, and how a cell is found in its extent.
//
// An extent of cells holds cells of one class, back to back from its start. Structural classes
// (records, keys, nodes, chunks) are type-stable: their extents are never used for anything else.
// Block classes are plain bytes; an extent of them that has become empty may be given back.
#pragma once

#include <array>
#include <cstdint>

#include "shm/layout.h"

namespace theus::shm {

enum CellClass : std::uint8_t {
  kSmallRecord,
  kWideRecord,
  kKey64,
  kKey128,
  kKey1024,
  kNode,
  kChunk64,
  kChunk128,
  kChunk256,
  kFirstBlock,
};

inline constexpr std::array<std::uint32_t, kCellClassCount> kCellBytes = {
    kSmallRecordBytes, kWideRecordBytes, 64, 128, 1024, 64, 64, 128, 256,  // structural
    64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144,  // blocks
    8192, 12288, 16384, 32768};
static_assert(kCellBytes.back() == 32768);

inline constexpr std::uint64_t kLargestBlockCell = kCellBytes.back();
inline constexpr std::uint32_t kKeyFixedBytes = 48;     // KeyRecord before its key bytes
inline constexpr std::uint32_t kChunkFixedBytes = 24;   // OrderChunk before its places
inline constexpr std::uint8_t kRunClass = 0xFF;         // "class" of a run of extents

constexpr bool is_record(std::uint8_t cell_class) { return cell_class <= kWideRecord; }
constexpr bool is_key(std::uint8_t c) { return c >= kKey64 && c <= kKey1024; }
constexpr bool is_node(std::uint8_t cell_class) { return cell_class == kNode; }
constexpr bool is_chunk(std::uint8_t c) { return c >= kChunk64 && c <= kChunk256; }
constexpr bool is_block(std::uint8_t c) {
  return c == kRunClass || (c >= kFirstBlock && c < kCellClassCount);
}

constexpr std::uint32_t cells_per_extent(std::uint8_t cell_class) {
  return static_cast<std::uint32_t>(kExtentBytes / kCellBytes[cell_class]);
}
constexpr std::uint32_t chunk_capacity(std::uint8_t cell_class) {
  return (kCellBytes[cell_class] - kChunkFixedBytes) / 8;
}
constexpr std::uint8_t key_class(std::uint32_t key_bytes) {
  return key_bytes <= 64 - kKeyFixedBytes ? kKey64 : key_bytes <= 128 - kKeyFixedBytes ? kKey128
                                                                                       : kKey1024;
}
// The chunk class for a node that starts with `entries` entries.
constexpr std::uint8_t chunk_class(std::uint64_t entries) {
  return entries <= chunk_capacity(kChunk64)    ? kChunk64
         : entries <= chunk_capacity(kChunk128) ? kChunk128
                                                : kChunk256;
}
// The class for a block of `bytes` bytes (header included); kRunClass: it needs whole extents.
constexpr std::uint8_t block_class(std::uint64_t bytes) {
  for (std::uint8_t c = kFirstBlock; c < kCellClassCount; ++c) {
    if (bytes <= kCellBytes[c]) return c;
  }
  return kRunClass;
}

// --- ExtentRecord::head

struct ExtentHead {
  ExtentKind kind = ExtentKind::kNotHead;
  std::uint8_t cell_class = 0;
  std::uint16_t owner = kNoSlot;
  std::uint32_t length = 0;  // extents

  static constexpr ExtentHead unpack(std::uint64_t word) {
    return {static_cast<ExtentKind>(word >> 56), static_cast<std::uint8_t>(word >> 48),
            static_cast<std::uint16_t>(word >> 32), static_cast<std::uint32_t>(word)};
  }
  constexpr std::uint64_t pack() const {
    return (std::uint64_t{static_cast<std::uint8_t>(kind)} << 56) |
           (std::uint64_t{cell_class} << 48) | (std::uint64_t{owner} << 32) | length;
  }
};

}  // namespace theus::shm
