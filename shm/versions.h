// Version chains and order chunks as readers see them. No lock; nothing is believed before its
// generation has been read again.
#pragma once

#include <cstdint>

#include "shm/cell_class.h"
#include "shm/space.h"

namespace theus::shm {

// VersionRecord::shape
struct RecordShape {
  std::uint16_t place;   // index in its order chunk
  ValueKind kind;
  std::uint8_t length;   // of inline bytes
  static constexpr RecordShape unpack(std::uint32_t word) {
    return {static_cast<std::uint16_t>(word >> 16), static_cast<ValueKind>(word >> 8 & 0xFF),
            static_cast<std::uint8_t>(word & 0xFF)};
  }
  constexpr std::uint32_t pack() const {
    return std::uint32_t{place} << 16 | static_cast<std::uint32_t>(kind) << 8 | length;
  }
};

// True if the record's first value word links to a Block.
constexpr bool holds_block(ValueKind kind) {
  return kind == ValueKind::kBlock || kind == ValueKind::kStrBlock ||
         kind == ValueKind::kBytesBlock;
}

// OrderChunk::shape
struct ChunkShape {
  std::uint8_t capacity;
  std::uint8_t used;
  std::uint8_t live;
  static constexpr ChunkShape unpack(std::uint32_t word) {
    return {static_cast<std::uint8_t>(word >> 16), static_cast<std::uint8_t>(word >> 8),
            static_cast<std::uint8_t>(word)};
  }
  constexpr std::uint32_t pack() const {
    return std::uint32_t{capacity} << 16 | std::uint32_t{used} << 8 | live;
  }
};

// A version record, read consistently.
struct SeenRecord {
  Link link;
  const VersionRecord* record = nullptr;
  std::uint64_t version = 0;
  std::uint64_t died_at = 0;
  std::uint32_t chunk = 0;
  RecordShape shape{};
  std::uint64_t value = 0;  // first value word
};

enum class Seen : std::uint8_t {
  kVisible,
  kAbsent,
  kAgain,  // changed under our feet: read the head again
};

// The record of the chain at `head` that a snapshot of `version` sees. The caller's pin on
// `version` keeps what it returns.
Seen visible_at(const Space& space, Link head, std::uint64_t version, SeenRecord* seen);

// The newest record, whatever its version. kAbsent: the chain is empty.
Seen newest(const Space& space, Link head, SeenRecord* seen);

// One place of an order chunk, read consistently. False: the chunk is no longer what `chunk` names.
struct SeenPlace {
  Link key;          // may be null: nothing there
  Link next_chunk;
  ChunkShape shape{};
};
bool read_place(const Space& space, Link chunk, std::uint32_t place, SeenPlace* seen);

// The last chunk of a node's order, and the one before `chunk`; null: there is none. They are named
// by their unit alone, so each is read twice, with the generation in between. False: it has changed
// meanwhile, or `chunk` is no longer in the order: start again from a chunk that is.
bool last_chunk(const Space& space, const NodeRecord& node, Link* last);
bool chunk_before(const Space& space, Link chunk, Link* before);
// Whether the chunk is in its mapping's order.
bool in_order(const Space& space, Link chunk);

}  // namespace theus::shm
