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

class Walk {
 public:
  Walk(const Space& space, std::uint64_t version, Snapshot::Cursor& cursor, Ends* ends)
      : space_(space), version_(version), cursor_(cursor), ends_(ends) {}

  // kAbsent: the end. kAgain: something has changed under our feet.
  Seen forward(Found* found);
  Seen backward(Found* found);

 private:
  Seen entry_at(Ends::Place at, Link key_link, Found* found);
  void rest(Ends::Place at) {
    cursor_.chunk = at.chunk.raw;
    cursor_.place = at.place;
  }
  bool worth_learning(bool from_end) const {
    return from_end && ends_ != nullptr && dead_.chunk && looked_ >= Ends::kWorth;
  }
  // Where the session knows that it may begin.
  const Ends::Known* known() const {
    return ends_ != nullptr && !cursor_.chunk ? ends_->find(cursor_.node, version_) : nullptr;
  }

  const Space& space_;
  const std::uint64_t version_;
  Snapshot::Cursor& cursor_;
  Ends* ends_;
  // The first and the latest place that was passed whose entry had lived, and died, by `version_`.
  // So every place before them was given by then as well.
  Ends::Place dead_, latest_dead_;
  std::uint64_t looked_ = 0;
};

// The entry at a place, if the version sees one there.
Seen Walk::entry_at(Ends::Place at, Link key_link, Found* found) {
  ++looked_;
  ++cursor_.looked;
  if (!key_link) return Seen::kAbsent;
  const auto* key = space_.cell<KeyRecord>(key_link);
  // Outside: a place that is being taken back showed what was there before.
  if (key == nullptr) return Seen::kAgain;
  const Link head(key->head.load(std::memory_order_acquire));
  // Otherwise the key has gone since the place was read.
  if (key->cell.generation.load(std::memory_order_acquire) != key_link.generation()) {
    return Seen::kAgain;
  }
  SeenRecord record;
  const Seen how = shm::visible_at(space_, head, version_, &record);
  if (how == Seen::kAgain) return how;
  const bool here = record.chunk == at.chunk.unit() && record.shape.place == at.place;
  if (how == Seen::kVisible && here) {
    *found = {key_link, key, true, record};
    return how;
  }
  if (how == Seen::kAbsent && here && record.version <= version_ && record.died_at != 0) {
    if (!dead_.chunk) dead_ = at;
    latest_dead_ = at;
  }
  return Seen::kAbsent;
}

Seen Walk::forward(Found* found) {
  Ends::Place at{Link(cursor_.chunk), cursor_.place};
  const bool from_end = !at.chunk;
  if (from_end) {
    at = {Link(node_at(space_, cursor_.node).first_chunk.load(std::memory_order_acquire)), 0};
    const Ends::Known* const hint = known();
    if (hint != nullptr && hint->first.chunk && shm::in_order(space_, hint->first.chunk)) {
      at = hint->first;
    }
  }
  while (at.chunk) {
    SeenPlace seen;
    if (!shm::read_place(space_, at.chunk, at.place, &seen)) return Seen::kAgain;
    if (at.place >= seen.shape.used) {
      at = {seen.next_chunk, 0};
      continue;
    }
    const Seen how = entry_at(at, seen.key, found);
    if (how == Seen::kAgain) return how;
    if (how == Seen::kVisible) {
      if (worth_learning(from_end)) ends_->learn_first(cursor_.node, version_, at);
      rest({at.chunk, at.place + 1});
      return how;
    }
    ++at.place;
  }
  if (worth_learning(from_end)) {
    ends_->learn_first(cursor_.node, version_, {latest_dead_.chunk, latest_dead_.place + 1});
  }
  return Seen::kAbsent;
}

Seen Walk::backward(Found* found) {
  // Places below `at` are left.
  Ends::Place at{Link(cursor_.chunk), cursor_.place};
  const bool from_end = !at.chunk;
  if (from_end && !shm::last_chunk(space_, node_at(space_, cursor_.node), &at.chunk)) {
    return Seen::kAgain;
  }
  const Ends::Known* const hint = known();
  for (bool resting = !from_end; at.chunk; resting = false) {
    SeenPlace seen;
    if (!resting) {
      // What is entered behind these from now on, the version does not see.
      if (!shm::read_place(space_, at.chunk, 0, &seen)) return Seen::kAgain;
      at.place = seen.shape.used;
    }
    while (at.place > 0) {
      --at.place;
      if (hint != nullptr && at == hint->dead && shm::in_order(space_, hint->last.chunk)) {
        if (!dead_.chunk) dead_ = at;
        latest_dead_ = at = hint->last;
        continue;
      }
      if (!shm::read_place(space_, at.chunk, at.place, &seen)) return Seen::kAgain;
      const Seen how = entry_at(at, seen.key, found);
      if (how == Seen::kAgain) return how;
      if (how == Seen::kVisible) {
        if (worth_learning(from_end)) {
          ends_->learn_last(cursor_.node, version_, dead_, {at.chunk, at.place + 1});
        }
        rest(at);
        return how;
      }
    }
    if (!shm::chunk_before(space_, at.chunk, &at.chunk)) return Seen::kAgain;
  }
  if (worth_learning(from_end)) ends_->learn_last(cursor_.node, version_, dead_, latest_dead_);
  return Seen::kAbsent;
}

}  // namespace

bool next_entry(const Space& space, std::uint64_t version, Snapshot::Cursor& cursor, Found* found,
                Ends* ends) {
  // The cursor rests on a chunk that holds an entry visible at `version` (or is at the start): the
  // pin keeps that entry, so the chunk stays what it is. Chunks between may go while we pass them;
  // then the walk goes on from the resting place again.
  for (std::uint32_t restart = 0; restart < kRestartsMax && !cursor.done; ++restart) {
    Walk walk(space, version, cursor, ends);
    const Seen how = cursor.backward ? walk.backward(found) : walk.forward(found);
    if (how == Seen::kVisible) return true;
    cursor.done = how == Seen::kAbsent;
    ends = nullptr;
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
