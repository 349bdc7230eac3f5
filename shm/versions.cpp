#include "shm/versions.h"

namespace theus::shm {
namespace {

// Longer than any chain that pins and the reclaimer's pace allow.
constexpr std::uint64_t kChainMax = 1ull << 24;

// The chunk of that unit, with the generation that it has now. False: outside.
bool with_generation(const Space& space, std::uint32_t unit, Link* link) {
  *link = Link();
  if (unit == 0) return true;
  const auto* chunk = space.cell<OrderChunk>(Link(0, unit));
  if (chunk == nullptr) return false;
  *link = Link(chunk->cell.generation.load(std::memory_order_acquire), unit);
  return true;
}

// False: the cell is not (or no longer) the one that `link` names.
bool read_record(const Space& space, Link link, SeenRecord* seen, Link* prev) {
  const auto* record = space.cell<VersionRecord>(link);
  if (record == nullptr) return false;
  seen->link = link;
  seen->record = record;
  seen->version = record->version.load(std::memory_order_acquire);
  seen->died_at = record->died_at.load(std::memory_order_acquire);
  seen->chunk = record->chunk.load(std::memory_order_acquire);
  seen->shape = RecordShape::unpack(record->shape.load(std::memory_order_acquire));
  seen->value = record->value[0].load(std::memory_order_acquire);
  *prev = Link(record->prev.load(std::memory_order_acquire));
  return record->cell.generation.load(std::memory_order_acquire) == link.generation();
}

}  // namespace

Seen visible_at(const Space& space, Link head, std::uint64_t version, SeenRecord* seen) {
  Link at = head;
  for (std::uint64_t hop = 0; hop < kChainMax; ++hop) {
    if (!at) return Seen::kAbsent;
    Link prev;
    if (!read_record(space, at, seen, &prev)) return Seen::kAgain;
    if (seen->version <= version) {
      const bool alive = seen->died_at == 0 || seen->died_at > version;
      return alive ? Seen::kVisible : Seen::kAbsent;
    }
    at = prev;
  }
  return Seen::kAgain;
}

Seen newest(const Space& space, Link head, SeenRecord* seen) {
  if (!head) return Seen::kAbsent;
  Link prev;
  return read_record(space, head, seen, &prev) ? Seen::kVisible : Seen::kAgain;
}

bool read_place(const Space& space, Link link, std::uint32_t place, SeenPlace* seen) {
  const auto* chunk = space.cell<OrderChunk>(link);
  if (chunk == nullptr) return false;
  seen->shape = ChunkShape::unpack(chunk->shape.load(std::memory_order_acquire));
  seen->next_chunk = Link(chunk->next.load(std::memory_order_acquire));
  seen->key = Link();
  constexpr std::uint32_t kPlacesMax = chunk_capacity(kChunk256);
  if (place < seen->shape.used && place < kPlacesMax &&
      space.at(link.offset(), kChunkFixedBytes + (place + 1) * sizeof(Word)) != nullptr) {
    seen->key = Link(chunk->places()[place].load(std::memory_order_acquire));
  }
  return chunk->cell.generation.load(std::memory_order_acquire) == link.generation();
}

// tests/model/order_back.pml: what each of these looks is for, and that their order matters.
bool last_chunk(const Space& space, const NodeRecord& node, Link* last) {
  const std::uint32_t unit = node.last_chunk.load(std::memory_order_acquire);
  return with_generation(space, unit, last) &&
         node.last_chunk.load(std::memory_order_acquire) == unit;
}

bool chunk_before(const Space& space, Link link, Link* before) {
  const auto* chunk = space.cell<OrderChunk>(link);
  if (chunk == nullptr) return false;
  const std::uint32_t unit = chunk->prev.load(std::memory_order_acquire);
  if (!with_generation(space, unit, before)) return false;
  // A chunk that has left the order goes on naming the one that was before it, though that may have
  // left as well by now, and be another node's. Linked once more by a delta that is applied again,
  // it may have another one before it; filled anew, it is another's itself.
  return chunk->cell.state.load(std::memory_order_acquire) == kCellLinked &&
         chunk->prev.load(std::memory_order_acquire) == unit &&
         chunk->cell.generation.load(std::memory_order_acquire) == link.generation();
}

bool in_order(const Space& space, Link link) {
  const auto* chunk = space.cell<OrderChunk>(link);
  // The state first: a cell that is linked anew has its new generation before that.
  return chunk != nullptr && chunk->cell.state.load(std::memory_order_acquire) == kCellLinked &&
         chunk->cell.generation.load(std::memory_order_acquire) == link.generation();
}

}  // namespace theus::shm
