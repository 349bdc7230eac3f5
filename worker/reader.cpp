#include "worker/reader.h"

namespace theus::worker {

using shm::KeyRecord;
using shm::Link;
using shm::NodeRecord;
using shm::Seen;
using shm::SeenPlace;
using shm::SeenRecord;
using shm::Space;
using shm::ValueKind;

namespace {

// A change under the reader's feet sends it back; this many times in a row is no accident.
constexpr std::uint32_t kRestartsMax = 1u << 20;

[[noreturn]] void damaged(const char* what) {
  throw Error(std::string("shared memory is damaged: ") + what +
              "; restart the coordinator and every worker");
}

}  // namespace

KeyView key_of(const KeyRecord& record) {
  const shm::KeyShape shape = shm::KeyShape::unpack(record.shape.load(std::memory_order_acquire));
  return KeyView(reinterpret_cast<const char*>(&record.key[0]), shape.size, shape.compared);
}

Found lookup(const Space& space, std::uint64_t node, KeyView key, std::uint64_t hash,
             std::uint64_t version) {
  Found result;
  for (std::uint32_t restart = 0; restart < kRestartsMax; ++restart) {
    const shm::FoundKey found = shm::find_key(space, node, key, hash);
    result.key = nullptr;
    result.key_link = Link();
    if (found.unsettled) damaged("the index does not settle");
    if (found.record == nullptr) return result;
    result.key = found.record;
    result.key_link = found.link;
    const Link head(found.record->head.load(std::memory_order_acquire));
    // The head is this key's only if the cell is still this key's.
    if (found.record->cell.generation.load(std::memory_order_acquire) != found.link.generation()) {
      continue;
    }
    const Seen seen = shm::visible_at(space, head, version, &result.seen);
    if (seen == Seen::kAgain) continue;
    result.visible = seen == Seen::kVisible;
    return result;
  }
  damaged("a key's versions do not settle");
}

Value value_of(const Space& space, const SeenRecord& seen) {
  Value value;
  value.record = seen.link.raw;
  auto inline_bytes = [&](Value::Kind kind, std::uint32_t most) {
    if (seen.shape.length > most) damaged("a record's inline length");
    value.kind = kind;
    value.data = reinterpret_cast<const char*>(&seen.record->value[0]);
    value.size = seen.shape.length;
  };
  auto in_block = [&](Value::Kind kind) {
    const Link link(seen.value);
    const auto* block = space.cell<shm::Block>(link);
    if (block == nullptr) damaged("a record's block lies outside");
    const std::uint64_t shape = block->shape.load(std::memory_order_acquire);
    value.size = shape & ((1ull << 56) - 1);
    const std::byte* data = space.at(link.offset() + (shape >> 56), value.size);
    if (data == nullptr) damaged("a block's length");
    value.kind = kind;
    value.data = reinterpret_cast<const char*>(data);
    value.block = link.raw;
  };
  switch (seen.shape.kind) {
    case ValueKind::kNone:
      value.kind = Value::Kind::kNone;
      return value;
    case ValueKind::kFalse:
      value.kind = Value::Kind::kFalse;
      return value;
    case ValueKind::kTrue:
      value.kind = Value::Kind::kTrue;
      return value;
    case ValueKind::kInt:
      value.kind = Value::Kind::kInt;
      value.integer = static_cast<std::int64_t>(seen.value);
      return value;
    case ValueKind::kFloat:
      value.kind = Value::Kind::kFloat;
      value.real = __builtin_bit_cast(double, seen.value);
      return value;
    case ValueKind::kStr:
      inline_bytes(Value::Kind::kStr, shm::kWideInlineBytes);
      return value;
    case ValueKind::kBytes:
      inline_bytes(Value::Kind::kBytes, shm::kWideInlineBytes);
      return value;
    case ValueKind::kNode:
      value.kind = Value::Kind::kMapping;
      value.node = seen.value;
      return value;
    case ValueKind::kBlock:
      in_block(Value::Kind::kLeaf);
      return value;
    case ValueKind::kStrBlock:
      in_block(Value::Kind::kStr);
      return value;
    case ValueKind::kBytesBlock:
      in_block(Value::Kind::kBytes);
      return value;
  }
  damaged("a record of unknown kind");
}

namespace {

const NodeRecord& node_at(const Space& space, std::uint64_t node_id) {
  const auto* node = space.cell<NodeRecord>(Link(node_id));
  if (node == nullptr) damaged("a mapping node lies outside");
  return *node;
}

// The entry at a place, if the version sees one there.
Seen entry_at(const Space& space, std::uint64_t version, Link chunk, std::uint32_t place,
              Link key_link, Found* found) {
  const auto* key = space.cell<KeyRecord>(key_link);
  // Outside: a place that is being taken back showed what was there before.
  if (key == nullptr) return Seen::kAgain;
  const Link head(key->head.load(std::memory_order_acquire));
  // Otherwise the key has gone since the place was read.
  if (key->cell.generation.load(std::memory_order_acquire) != key_link.generation()) {
    return Seen::kAgain;
  }
  SeenRecord record;
  const Seen how = shm::visible_at(space, head, version, &record);
  if (how != Seen::kVisible) return how;
  if (record.chunk != chunk.unit() || record.shape.place != place) return Seen::kAbsent;
  *found = {key_link, key, true, record};
  return Seen::kVisible;
}

// kAbsent: the end.
Seen walk_on(const Space& space, std::uint64_t version, Snapshot::Cursor& cursor, Found* found) {
  Link chunk(cursor.chunk);
  std::uint32_t place = cursor.place;
  if (!chunk) {
    chunk = Link(node_at(space, cursor.node).first_chunk.load(std::memory_order_acquire));
    place = 0;
  }
  while (chunk) {
    SeenPlace seen;
    if (!shm::read_place(space, chunk, place, &seen)) return Seen::kAgain;
    if (place >= seen.shape.used) {
      chunk = seen.next_chunk;
      place = 0;
      continue;
    }
    ++cursor.looked;
    if (seen.key) {
      const Seen how = entry_at(space, version, chunk, place, seen.key, found);
      if (how == Seen::kAgain) return how;
      if (how == Seen::kVisible) {
        cursor.chunk = chunk.raw;
        cursor.place = place + 1;
        return how;
      }
    }
    ++place;
  }
  return Seen::kAbsent;
}

Seen walk_back(const Space& space, std::uint64_t version, Snapshot::Cursor& cursor, Found* found) {
  Link chunk(cursor.chunk);
  const bool resting = static_cast<bool>(chunk);
  if (!resting && !shm::last_chunk(space, node_at(space, cursor.node), &chunk)) {
    return Seen::kAgain;
  }
  std::uint32_t place = cursor.place;
  for (bool from_rest = resting; chunk; from_rest = false) {
    SeenPlace seen;
    if (!from_rest) {
      // What is entered behind these from now on, the version does not see.
      if (!shm::read_place(space, chunk, 0, &seen)) return Seen::kAgain;
      place = seen.shape.used;
    }
    while (place-- > 0) {
      if (!shm::read_place(space, chunk, place, &seen)) return Seen::kAgain;
      ++cursor.looked;
      if (!seen.key) continue;
      const Seen how = entry_at(space, version, chunk, place, seen.key, found);
      if (how == Seen::kAgain) return how;
      if (how == Seen::kVisible) {
        cursor.chunk = chunk.raw;
        cursor.place = place;
        return how;
      }
    }
    if (!shm::chunk_before(space, chunk, &chunk)) return Seen::kAgain;
  }
  return Seen::kAbsent;
}

}  // namespace

bool next_entry(const Space& space, std::uint64_t version, Snapshot::Cursor& cursor, Found* found) {
  // The cursor rests on a chunk that holds an entry visible at `version` (or is at the start): the
  // pin keeps that entry, so the chunk stays what it is. Chunks between may go while we pass them;
  // then the walk goes on from the resting place again.
  for (std::uint32_t restart = 0; restart < kRestartsMax && !cursor.done; ++restart) {
    const Seen how = cursor.backward ? walk_back(space, version, cursor, found)
                                     : walk_on(space, version, cursor, found);
    if (how == Seen::kVisible) return true;
    cursor.done = how == Seen::kAbsent;
  }
  if (!cursor.done) damaged("the order of a mapping does not settle");
  return false;
}

std::optional<std::uint64_t> settled_count(const Space& space, const NodeRecord& node,
                                           std::uint64_t version) {
  // The count belongs to the newest version; it is ours if nothing came or went since. Read before
  // structure_version, which is stored first. The epoch tells that no undo came between: then the
  // count may have been one that never came to be.
  const shm::Header& header = space.header();
  const std::uint32_t epoch = header.undo_epoch.load(std::memory_order_acquire);
  const std::uint64_t count = node.count.load(std::memory_order_acquire);
  const std::uint64_t structure = node.structure_version.load(std::memory_order_acquire);
  const bool settled = structure <= version && epoch % 2 == 0 &&
                       header.undo_epoch.load(std::memory_order_acquire) == epoch;
  return settled ? std::optional(count) : std::nullopt;
}

std::uint64_t count_entries(const Space& space, std::uint64_t node_id, std::uint64_t version) {
  const NodeRecord& node = node_at(space, node_id);
  if (const auto count = settled_count(space, node, version)) return *count;
  Snapshot::Cursor cursor;
  cursor.node = node_id;
  std::uint64_t counted = 0;
  Found found;
  while (next_entry(space, version, cursor, &found)) ++counted;
  return counted;
}

}  // namespace theus::worker
