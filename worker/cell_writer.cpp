#include "worker/cell_writer.h"

#include <cstring>

#include "shm/index.h"
#include "shm/versions.h"

namespace theus::worker {

using shm::Link;
using shm::ValueKind;

namespace {

constexpr auto kRelease = std::memory_order_release;
constexpr std::uint64_t kPrelinkAbove = 32;  // keys: 29 such nodes in a chunk stay a short hold

void store_bytes(shm::Word* words, const char* data, std::size_t size) {
  for (std::size_t at = 0; at < size; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + at, size - at < 8 ? size - at : 8);
    words[at / 8].store(word, kRelease);
  }
}

}  // namespace

Link CellWriter::record(const Entry& entry) {
  const Value& value = entry.value;
  ValueKind kind = ValueKind::kNone;
  std::uint64_t first = 0;
  std::uint8_t length = 0;
  bool inline_bytes = false;
  switch (value.kind) {
    case Value::Kind::kAbsent:
      throw Error("an absent value has no record");
    case Value::Kind::kNone:
      break;
    case Value::Kind::kFalse:
      kind = ValueKind::kFalse;
      break;
    case Value::Kind::kTrue:
      kind = ValueKind::kTrue;
      break;
    case Value::Kind::kInt:
      kind = ValueKind::kInt;
      first = static_cast<std::uint64_t>(value.integer);
      break;
    case Value::Kind::kFloat:
      kind = ValueKind::kFloat;
      first = __builtin_bit_cast(std::uint64_t, value.real);
      break;
    case Value::Kind::kStr:
    case Value::Kind::kBytes: {
      const bool text = value.kind == Value::Kind::kStr;
      inline_bytes = value.block == 0;
      if (inline_bytes) {
        kind = text ? ValueKind::kStr : ValueKind::kBytes;
        length = static_cast<std::uint8_t>(value.size);
      } else {
        kind = text ? ValueKind::kStrBlock : ValueKind::kBytesBlock;
        first = value.block;
      }
      break;
    }
    case Value::Kind::kLeaf:
      kind = ValueKind::kBlock;
      first = value.block;
      break;
    case Value::Kind::kMapping:
      kind = ValueKind::kNode;
      first = node(*entry.child).raw;
      break;
  }
  const bool wide = inline_bytes && length > shm::kSmallInlineBytes;
  const Link link = state_.take(wide ? shm::kWideRecord : shm::kSmallRecord);
  auto* cell = state_.in.space.writable_cell<shm::VersionRecord>(link.unit());
  cell->version.store(0, kRelease);
  cell->died_at.store(0, kRelease);
  cell->prev.store(0, kRelease);
  cell->chunk.store(0, kRelease);
  cell->shape.store(shm::RecordShape{0, kind, length}.pack(), kRelease);
  if (inline_bytes) {
    store_bytes(&cell->value[0], value.data, length);
  } else {
    cell->value[0].store(first, kRelease);
  }
  return link;
}

Link CellWriter::key(const Entry& entry, std::uint64_t node_id) {
  const Link link = state_.take(shm::key_class(entry.key.size));
  auto* cell = state_.in.space.writable_cell<shm::KeyRecord>(link.unit());
  const std::uint64_t hash = shm::hash_key(state_.hash_seed, node_id, entry.key);
  cell->sort.store(shm::key_sort(hash), kRelease);
  cell->node.store(node_id, kRelease);
  cell->next.store(0, kRelease);
  cell->head.store(0, kRelease);
  cell->retained_next.store(0, kRelease);
  cell->shape.store(shm::KeyShape{entry.key.size, entry.key.compared, false}.pack(), kRelease);
  store_bytes(&cell->key[0], entry.key.data, entry.key.size);
  return link;
}

Link CellWriter::chunk(std::uint8_t cell_class) {
  const Link link = state_.take(cell_class);
  auto* cell = state_.in.space.writable_cell<shm::OrderChunk>(link.unit());
  cell->next.store(0, kRelease);
  cell->prev.store(0, kRelease);
  cell->shape.store(
      shm::ChunkShape{static_cast<std::uint8_t>(shm::chunk_capacity(cell_class)), 0, 0}.pack(),
      kRelease);
  return link;
}

Link CellWriter::node(const Mapping& mapping) {
  const Link link = state_.take(shm::kNode);
  auto* cell = state_.in.space.writable_cell<shm::NodeRecord>(link.unit());
  cell->parent.store(0, kRelease);
  cell->structure_version.store(0, kRelease);
  cell->below_version.store(0, kRelease);
  cell->first_chunk.store(0, kRelease);
  cell->last_chunk.store(0, kRelease);
  cell->dead_next.store(0, kRelease);
  cell->unlinked.store(0, kRelease);
  const std::uint64_t keys_before = keys_below_;
  std::uint64_t entries = 0;
  for (const Entry* e = mapping.first_new; e != nullptr; e = e->next_new) ++entries;
  cell->count.store(entries, kRelease);
  keys_below_ += entries;

  shm::OrderChunk* page = nullptr;
  shm::ChunkShape shape{};
  std::uint64_t left = entries;
  for (const Entry* e = mapping.first_new; e != nullptr; e = e->next_new, --left) {
    if (page == nullptr || shape.used == shape.capacity) {
      const std::uint8_t cell_class = shm::chunk_class(left);
      const Link next = chunk(cell_class);
      (page != nullptr ? page->next : cell->first_chunk).store(next.raw, kRelease);
      page = state_.in.space.writable_cell<shm::OrderChunk>(next.unit());
      shape = {static_cast<std::uint8_t>(shm::chunk_capacity(cell_class)), 0, 0};
    }
    const Link key_link = key(*e, link.raw);
    state_.in.space.writable_cell<shm::KeyRecord>(key_link.unit())
        ->head.store(record(*e).raw, kRelease);
    page->places()[shape.used].store(key_link.raw, kRelease);
    ++shape.used;
    ++shape.live;
    page->shape.store(shape.pack(), kRelease);
  }
  // Larger nodes one by one; smaller ones go along with the chunk that holds them.
  if (prelink_ && keys_below_ - keys_before > kPrelinkAbove) {
    // Before the first: if anything fails from here on, what is linked becomes garbage.
    state_.prelinked = true;
    bool more = true, good = true;
    while (more && good) {
      state_.in.lock(OnSignal::kGiveUp);
      more = state_.in.arbiter.prelink(link, &good);
      state_.in.arbiter.unlock();
    }
    if (!good) throw Error("the arbiter found a new mapping malformed; nothing was written");
    keys_below_ = keys_before;
  }
  return link;
}

}  // namespace theus::worker
