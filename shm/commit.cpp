#include "shm/commit.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <utility>

namespace theus::shm {
namespace {

constexpr std::uint32_t kDepthMax = 4096;  // far above any nesting the bindings allow

constexpr std::uint64_t kPrelinkKeys = 512;  // linked in one hold of the lock

bool is_node(std::uint8_t cell_class) { return cell_class == kNode; }

bool holds_block(ValueKind kind) {
  return kind == ValueKind::kBlock || kind == ValueKind::kStrBlock ||
         kind == ValueKind::kBytesBlock;
}

// The words of a submission, or an empty array when the desk's numbers make no sense.
kj::ArrayPtr<const capnp::word> submission_words(const Space& space, std::uint32_t slot) {
  const Desk& desk = space.desk(slot);
  const std::uint64_t words = desk.submission_words.load(std::memory_order_acquire);
  const Link link(desk.submission_link.load(std::memory_order_acquire));
  const std::byte* begin = nullptr;
  if (!link) {
    if (words <= kSubmissionBytes / 8) begin = desk.submission;
  } else {
    const auto place = locate_cell(space, link.unit());
    if (place && place->head.kind == ExtentKind::kRun && place->head.owner == slot &&
        words <= (place->head.length * kExtentBytes - kAlignedPayload) / 8) {
      begin = space.writable_base() + link.offset() + kAlignedPayload;
    }
  }
  if (begin == nullptr || words == 0) return nullptr;
  return {reinterpret_cast<const capnp::word*>(begin), static_cast<std::size_t>(words)};
}

}  // namespace

Decision Committer::decide(std::uint32_t slot) noexcept {
  tables_.journal.end();
  try {
    const auto words = submission_words(tables_.space, slot);
    if (words.size() == 0) return {Outcome::kBadDelta};
    const kj::ArrayPtr<const capnp::word> segments[1] = {words};
    // The limit stops a message whose lists overlap to look larger than it is; lists are walked
    // at most twice (check, apply).
    capnp::ReaderOptions options;
    options.traversalLimitInWords = words.size() * 4 + 1024;
    capnp::SegmentArrayMessageReader message(kj::arrayPtr(segments, 1), options);
    return decide_message(slot, message.getRoot<wire::Delta>());
  } catch (...) {
    // Cap'n Proto found the message malformed. Nothing has been changed: operations are read
    // before their first store, and what earlier ones stored is taken back here.
    tables_.journal.undo();
    return {Outcome::kBadDelta};
  }
}

Decision Committer::decide_message(std::uint32_t slot, wire::Delta::Reader delta) {
  Header& header = tables_.header();
  slot_ = slot;
  snapshot_ = delta.getSnapshot();
  const std::uint64_t clock = header.clock.load(std::memory_order_relaxed);
  version_ = clock + 1;
  if (snapshot_ > clock ||
      delta.getSequence() != tables_.space.desk(slot).request.load(std::memory_order_relaxed)) {
    return {Outcome::kBadDelta};
  }
  std::uint32_t index = 0;
  std::uint64_t winner = 0;
  for (const auto check_one : delta.getChecks()) {
    if (!check(check_one, snapshot_, &winner)) return {Outcome::kConflict, winner, index};
    ++index;
  }
  for (const auto absence : delta.getAbsences()) {
    if (!check_absence(absence, &winner)) return {Outcome::kConflict, winner, index};
    ++index;
  }

  std::uint64_t region = 0, region_entries = 0;
  if (const Link link(delta.getJournalRegion()); link) {
    const auto place = locate_cell(tables_.space, link.unit());
    const bool is_message =
        link.raw == tables_.space.desk(slot).submission_link.load(std::memory_order_relaxed);
    if (!owns(link, [](std::uint8_t c) { return c == kRunClass; }) || is_message) {
      return {Outcome::kBadDelta};
    }
    region = link.offset() + kAlignedPayload;
    region_entries = (place->head.length * kExtentBytes - kAlignedPayload) / sizeof(JournalEntry);
  }

  // A version that an owner left here, who died between its answer and clearing it, goes first;
  // then the request, then the version: at no time does a version stand beside a request that it
  // is not for. (tests/model/commit_death.pml)
  header.slots[slot].assigned.store(0, std::memory_order_release);
  header.slots[slot].assigned_request.store(delta.getSequence(), std::memory_order_release);
  header.slots[slot].assigned.store(version_, std::memory_order_release);
  tables_.journal.begin(version_, region, region_entries);
  Applied applied = Applied::kDone;
  const auto goes_on = [&] { return applied == Applied::kDone && !tables_.journal.full(); };
  for (const auto operation : delta.getOperations()) {
    applied = apply(operation, &winner);
    if (!goes_on()) break;
    ++index;
  }
  if (goes_on()) {
    for (const std::uint64_t key : delta.getDeletes()) {
      applied = apply_delete(Link(key), &winner);
      if (!goes_on()) break;
      ++index;
    }
  }
  if (!goes_on()) {
    const bool full = tables_.journal.full();
    tables_.journal.undo();
    header.slots[slot].assigned.store(0, std::memory_order_release);
    if (full) return {Outcome::kJournalFull};
    return {applied == Applied::kBad ? Outcome::kBadDelta : Outcome::kConflict, winner, index};
  }
  header.winner_pid[version_ % kCommitRing].store(
      header.slots[slot].pid.load(std::memory_order_relaxed), std::memory_order_relaxed);
  // The commit. Release: whoever reads this clock sees every word of the delta.
  header.clock.store(version_, std::memory_order_release);
  // The entries must not outlive the commit: a later undo would take it back, and a region that
  // the delta brought is given back with it.
  tables_.journal.end();
  return {Outcome::kCommitted, version_};
}

bool Committer::check(wire::Check::Reader check_one, std::uint64_t snapshot,
                      std::uint64_t* winner) {
  const Link subject(check_one.getSubject());
  *winner = 0;
  const wire::Check::Kind kind = check_one.getKind();
  if (kind == wire::Check::Kind::KEY || kind == wire::Check::Kind::PRESENT) {
    bool gone = false;
    if (!names(subject, is_key, &gone)) return false;
    const KeyRecord* key = &tables_.key(subject.unit());
    const Link head(key->head.load(std::memory_order_relaxed));
    if (!head) return false;
    const VersionRecord& record = tables_.record(head.unit());
    const std::uint64_t died_at = record.died_at.load(std::memory_order_relaxed);
    const std::uint64_t version = record.version.load(std::memory_order_relaxed);
    *winner = died_at != 0 ? died_at : version;
    if (died_at != 0) return false;
    if (kind == wire::Check::Kind::KEY) return version == check_one.getSeen();
    // Present: 0, or where an iteration found it: deleted and inserted again it stands elsewhere.
    // (The transaction's own pin keeps that place from being given to another.)
    const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    const std::uint64_t place =
        std::uint64_t{record.chunk.load(std::memory_order_relaxed)} << 32 | (shape.place + 1u);
    return check_one.getSeen() == 0 || check_one.getSeen() == place;
  }
  bool gone = false;
  if (!names(subject, is_node, &gone)) return false;
  const NodeRecord* node = &tables_.node(subject.unit());
  *winner = node->structure_version.load(std::memory_order_relaxed);
  if (kind == wire::Check::Kind::EMPTINESS) {
    const bool empty = node->count.load(std::memory_order_relaxed) == 0;
    return empty == (check_one.getSeen() != 0);
  }
  return *winner <= snapshot;
}

bool Committer::check_absence(wire::Absence::Reader absence, std::uint64_t* winner) {
  const auto bytes = absence.getKey();
  *winner = 0;
  if (bytes.size() == 0 || bytes.size() > kMaxKeyBytes || absence.getCompared() == 0 ||
      absence.getCompared() > bytes.size()) {
    return false;
  }
  const KeyView key(reinterpret_cast<const char*>(bytes.begin()),
                    static_cast<std::uint16_t>(bytes.size()), absence.getCompared());
  const std::uint64_t seed = tables_.header().hash_seed.load(std::memory_order_relaxed);
  const std::uint32_t unit =
      tables_.index.find(absence.getNode(), key, hash_key(seed, absence.getNode(), key));
  if (unit == 0) return true;
  const Link head(tables_.key(unit).head.load(std::memory_order_relaxed));
  if (!head) return true;
  const VersionRecord& record = tables_.record(head.unit());
  *winner = record.version.load(std::memory_order_relaxed);
  return record.died_at.load(std::memory_order_relaxed) != 0;
}

bool Committer::owns(Link link, bool (*fits)(std::uint8_t)) const {
  const auto place = locate_cell(tables_.space, link.unit());
  if (!place || place->head.owner != slot_ || !fits(place->cell_class())) return false;
  const auto* cell = tables_.space.writable_cell<CellHeader>(link.unit());
  return cell->generation.load(std::memory_order_acquire) == link.generation() &&
         cell->state.load(std::memory_order_acquire) == kCellHeld;
}

bool Committer::names(Link link, bool (*fits)(std::uint8_t), bool* gone) const {
  const auto place = locate_cell(tables_.space, link.unit());
  if (!place || !fits(place->cell_class())) return false;
  const auto* cell = tables_.space.writable_cell<CellHeader>(link.unit());
  *gone = cell->generation.load(std::memory_order_relaxed) != link.generation() ||
          cell->state.load(std::memory_order_relaxed) != kCellLinked;
  return !*gone;
}

// The kind is one of ours, and its inline bytes fit into the record's cell: readers copy them.
bool Committer::well_formed(Link link) const {
  const RecordShape shape =
      RecordShape::unpack(tables_.record(link.unit()).shape.load(std::memory_order_relaxed));
  const auto kind = static_cast<std::uint8_t>(shape.kind);
  if (kind == 0 || kind > kLastValueKind) return false;
  if (shape.kind != ValueKind::kStr && shape.kind != ValueKind::kBytes) return true;
  const bool wide = locate_cell(tables_.space, link.unit())->cell_class() == kWideRecord;
  return shape.length <= (wide ? kWideInlineBytes : kSmallInlineBytes);
}

// 0 when an earlier operation of the delta has used the chunk up: then it has places left, or the
// worker brought too few.
std::uint32_t Committer::usable_spare(Link chunk) const {
  return chunk && owns(chunk, is_chunk) ? chunk.unit() : 0;
}

// True if the key's newest version is younger than the snapshot: first committer wins, whether or
// not the transaction has read it.
bool Committer::changed_since(std::uint32_t key_unit, std::uint64_t* winner) const {
  const Link head(tables_.key(key_unit).head.load(std::memory_order_relaxed));
  if (!head) return false;
  const VersionRecord& record = tables_.record(head.unit());
  const std::uint64_t died_at = record.died_at.load(std::memory_order_relaxed);
  *winner = died_at != 0 ? died_at : record.version.load(std::memory_order_relaxed);
  if (*winner > snapshot_) return true;
  if (died_at != 0) return false;
  // Replacing or deleting a node conflicts with anything written below it.
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (shape.kind != ValueKind::kNode) return false;
  const Link node(record.value[0].load(std::memory_order_relaxed));
  const std::uint64_t below =
      tables_.node(node.unit()).below_version.load(std::memory_order_relaxed);
  if (below <= snapshot_ || below == version_) return false;
  *winner = below;
  return true;
}

void Committer::superseded(const VersionRecord& record) {
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (shape.kind == ValueKind::kNode) urgent_ = true;
  if (!holds_block(shape.kind)) return;
  const Link block(record.value[0].load(std::memory_order_relaxed));
  const auto place = locate_cell(tables_.space, block.unit());
  if (place && place->head.kind == ExtentKind::kRun) urgent_ = true;
}

void Committer::raise_below(std::uint32_t node_unit) {
  for (std::uint32_t depth = 0; depth < kDepthMax; ++depth) {
    NodeRecord& node = tables_.node(node_unit);
    if (node.below_version.load(std::memory_order_relaxed) != version_) {
      tables_.journal.set(node.below_version, version_);
    }
    const Link bound_to(node.parent.load(std::memory_order_relaxed));
    if (!bound_to) return;
    node_unit = Link(tables_.key(bound_to.unit()).node.load(std::memory_order_relaxed)).unit();
  }
}

bool Committer::link_record(Link record_link, Link key_link, std::uint64_t version) {
  VersionRecord& record = tables_.record(record_link.unit());
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (!well_formed(record_link)) return false;
  record.version.store(version, std::memory_order_release);
  record.died_at.store(0, std::memory_order_release);
  tables_.cells.link(record_link.unit());
  const Link value(record.value[0].load(std::memory_order_relaxed));
  if (holds_block(shape.kind)) {
    if (!owns(value, is_block)) return false;
    tables_.cells.link(value.unit());
  } else if (shape.kind == ValueKind::kNode) {
    return link_tree(value, key_link);
  }
  return true;
}

// Links a new node and everything below it, or binds one that was linked before.
bool Committer::link_tree(Link top, Link bound_to) {
  if (leave_nursery(top, bound_to)) return true;
  if (!owns(top, is_node)) return false;
  tables_.cells.link(top.unit());
  NodeRecord& top_node = tables_.node(top.unit());
  top_node.parent.store(bound_to.raw, std::memory_order_release);
  top_node.dead_next.store(0, std::memory_order_release);
  std::uint64_t keys = 0;
  return link_pending(top.unit(), &keys);
}

// Nodes still to do are chained through `dead_next`, which nobody else uses before they are bound.
// Adds the keys that it links to *keys.
bool Committer::link_pending(std::uint32_t pending, std::uint64_t* keys) {
  while (pending != 0) {
    const std::uint32_t unit = pending;
    NodeRecord& node = tables_.node(unit);
    pending = node.dead_next.load(std::memory_order_relaxed);
    std::uint64_t count = 0;
    std::uint32_t prev = 0;
    Link chunk_link(node.first_chunk.load(std::memory_order_relaxed));
    // Bounded: every chunk is linked once, and a linked one is no longer owned.
    while (chunk_link) {
      if (!link_chunk(unit, chunk_link, prev, &count, &pending)) return false;
      if (tables_.journal.full()) return true;  // the caller looks at it and undoes
      prev = chunk_link.unit();
      chunk_link = Link(tables_.chunk(prev).next.load(std::memory_order_relaxed));
    }
    *keys += count;
    node.last_chunk.store(prev, std::memory_order_release);
    node.count.store(count, std::memory_order_release);
    node.structure_version.store(0, std::memory_order_release);
    node.below_version.store(0, std::memory_order_release);
    node.unlinked.store(0, std::memory_order_release);
  }
  return true;
}

bool Committer::link_chunk(std::uint32_t node_unit, Link chunk_link, std::uint32_t prev,
                           std::uint64_t* count, std::uint32_t* pending) {
  if (!owns(chunk_link, is_chunk)) return false;
  const std::uint8_t cell_class = locate_cell(tables_.space, chunk_link.unit())->cell_class();
  OrderChunk& chunk = tables_.chunk(chunk_link.unit());
  ChunkShape shape = ChunkShape::unpack(chunk.shape.load(std::memory_order_relaxed));
  shape.capacity = static_cast<std::uint8_t>(chunk_capacity(cell_class));
  if (shape.used > shape.capacity) return false;
  shape.live = shape.used;
  chunk.shape.store(shape.pack(), std::memory_order_release);
  chunk.prev.store(prev, std::memory_order_release);
  tables_.cells.link(chunk_link.unit());
  for (std::uint32_t i = 0; i < shape.used; ++i) {
    const Link key(chunk.places()[i].load(std::memory_order_relaxed));
    if (!link_entry(node_unit, key, chunk_link.unit(), i, pending)) return false;
    if (tables_.journal.full()) return true;
    ++*count;
  }
  return true;
}

// True if the node stands in the worker's nursery; then it is bound to `bound_to` now. The nursery
// is a doubly linked list: `dead_next`, and back through `unlinked`, which is free for that once
// all of a node is linked (only the newest node can be unfinished: nodes come deepest first).
bool Committer::leave_nursery(Link node_link, Link bound_to) {
  const auto place = locate_cell(tables_.space, node_link.unit());
  if (!place || place->cell_class() != kNode || place->head.owner != slot_) return false;
  NodeRecord& node = tables_.node(node_link.unit());
  if (node.cell.state.load(std::memory_order_relaxed) != kCellLinked ||
      node.cell.generation.load(std::memory_order_relaxed) != node_link.generation() ||
      node.parent.load(std::memory_order_relaxed) != 0) {
    return false;
  }
  HalfWord& nursery = tables_.header().slots[slot_].nursery;
  const std::uint64_t newer = node.unlinked.load(std::memory_order_relaxed);
  const bool newest = nursery.load(std::memory_order_relaxed) == node_link.unit();
  // Unfinished, or (the root) in no nursery at all.
  if (newest != (newer == 0)) return false;
  const std::uint32_t older = node.dead_next.load(std::memory_order_relaxed);
  tables_.journal.set(newest ? nursery : tables_.node(static_cast<std::uint32_t>(newer)).dead_next,
                      older);
  if (older != 0) tables_.journal.set(tables_.node(older).unlinked, newer);
  tables_.journal.set(node.unlinked, 0);
  tables_.journal.set(node.dead_next, 0);
  tables_.journal.set(node.parent, bound_to.raw);
  return true;
}

Committer::Prelinked Committer::prelink(std::uint32_t slot, Link top) noexcept {
  slot_ = slot;
  StepJournal& journal = tables_.journal;
  HalfWord& nursery = tables_.header().slots[slot].nursery;
  journal.begin(kNoVersion);
  bool good = true;
  if (nursery.load(std::memory_order_relaxed) != top.unit()) {
    good = owns(top, is_node);
    if (good) {
      NodeRecord& node = tables_.node(top.unit());
      // Its chunks join its list one by one, so that what hangs from it is always linked.
      journal.set(node.unlinked, node.first_chunk.load(std::memory_order_relaxed));
      journal.set(node.first_chunk, 0);
      journal.set(node.last_chunk, 0);
      journal.set(node.count, 0);
      journal.set(node.parent, 0);
      const std::uint32_t older = nursery.load(std::memory_order_relaxed);
      journal.set(node.dead_next, older);
      if (older != 0) journal.set(tables_.node(older).unlinked, top.unit());
      tables_.cells.link(top.unit());
      journal.set(nursery, top.unit());
    }
  }
  bool more = false;
  if (good) {
    NodeRecord& node = tables_.node(top.unit());
    std::uint64_t count = 0, below = 0;
    Link at(node.unlinked.load(std::memory_order_relaxed));
    // A chunk brings at most 29 keys with 32 more below each (worker/cell_writer.cpp): what one
    // hold links stays far inside the journal.
    while (good && at && count + below < kPrelinkKeys) {
      std::uint32_t pending = 0;
      const std::uint32_t last = node.last_chunk.load(std::memory_order_relaxed);
      good = link_chunk(top.unit(), at, last, &count, &pending) && link_pending(pending, &below);
      const Link next(tables_.chunk(at.unit()).next.load(std::memory_order_relaxed));
      journal.set(tables_.chunk(at.unit()).next, 0);
      journal.set(last != 0 ? tables_.chunk(last).next : node.first_chunk, at.raw);
      journal.set(node.last_chunk, at.unit());
      journal.set(node.unlinked, next.raw);
      at = next;
    }
    journal.set(node.count, node.count.load(std::memory_order_relaxed) + count);
    more = static_cast<bool>(at);
  }
  if (!good || journal.full()) {
    journal.undo();
    return Prelinked::kBad;
  }
  journal.end();
  return more ? Prelinked::kMore : Prelinked::kDone;
}

bool Committer::bury_nursery(std::uint32_t slot) {
  HalfWord& nursery = tables_.header().slots[slot].nursery;
  const std::uint32_t unit = nursery.load(std::memory_order_relaxed);
  if (unit == 0) return false;
  tables_.journal.begin(kNoVersion);
  const std::uint32_t older = tables_.node(unit).dead_next.load(std::memory_order_relaxed);
  tables_.journal.set(nursery, older);
  if (older != 0) tables_.journal.set(tables_.node(older).unlinked, 0);
  tables_.bury(unit);
  tables_.journal.end();
  return true;
}

bool Committer::link_entry(std::uint32_t node_unit, Link key_link, std::uint32_t chunk_unit,
                           std::uint32_t place, std::uint32_t* pending) {
  if (!owns(key_link, is_key)) return false;
  KeyRecord& key = tables_.key(key_link.unit());
  const Link record_link(key.head.load(std::memory_order_relaxed));
  if (!owns(record_link, is_record)) return false;
  const NodeRecord& home = tables_.node(node_unit);
  const Link node_link(home.cell.generation.load(std::memory_order_relaxed), node_unit);
  if (key.node.load(std::memory_order_relaxed) != node_link.raw || !well_formed(record_link) ||
      !well_formed_key(key_link)) {
    return false;
  }
  VersionRecord& record = tables_.record(record_link.unit());
  RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  shape.place = static_cast<std::uint16_t>(place);
  record.shape.store(shape.pack(), std::memory_order_release);
  record.chunk.store(chunk_unit, std::memory_order_release);
  record.prev.store(0, std::memory_order_release);
  record.version.store(0, std::memory_order_release);  // as old as the node it lies in
  record.died_at.store(0, std::memory_order_release);
  tables_.cells.link(record_link.unit());
  const Link value(record.value[0].load(std::memory_order_relaxed));
  if (holds_block(shape.kind)) {
    if (!owns(value, is_block)) return false;
    tables_.cells.link(value.unit());
  } else if (shape.kind == ValueKind::kNode) {
    if (leave_nursery(value, key_link)) return finish_entry(key_link);
    if (!owns(value, is_node)) return false;
    tables_.cells.link(value.unit());
    NodeRecord& child = tables_.node(value.unit());
    child.parent.store(key_link.raw, std::memory_order_release);
    child.dead_next.store(*pending, std::memory_order_release);
    *pending = value.unit();
  }
  return finish_entry(key_link);
}

bool Committer::finish_entry(Link key_link) {
  tables_.key(key_link.unit()).retained_next.store(0, std::memory_order_release);
  tables_.cells.link(key_link.unit());
  tables_.index.insert(key_link);
  return true;
}

// Its sizes fit its cell, it is not queued, and its place in the index is the one of its key.
bool Committer::well_formed_key(Link link) const {
  const KeyRecord& key = tables_.key(link.unit());
  const KeyShape shape = KeyShape::unpack(key.shape.load(std::memory_order_relaxed));
  const std::uint32_t cell_bytes =
      kCellBytes[locate_cell(tables_.space, link.unit())->cell_class()];
  if (shape.compared == 0 || shape.compared > shape.size || shape.queued ||
      shape.size > cell_bytes - kKeyFixedBytes) {
    return false;
  }
  const std::uint64_t seed = tables_.header().hash_seed.load(std::memory_order_relaxed);
  const KeyView view(reinterpret_cast<const char*>(key.words()), shape.size, shape.compared);
  const std::uint64_t node = key.node.load(std::memory_order_relaxed);
  return key.sort.load(std::memory_order_relaxed) == key_sort(hash_key(seed, node, view));
}

Committer::Applied Committer::apply(wire::Operation::Reader operation, std::uint64_t* winner) {
  const Link node_link(operation.getNode());
  *winner = 0;
  bool gone = false;
  if (!names(node_link, is_node, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  Applied applied = Applied::kBad;
  if (operation.getKind() == wire::Operation::Kind::INSERT) {
    applied = insert(node_link.unit(), operation, winner);
  } else {
    const Link key_link(operation.getKey());
    // A key that is gone has been deleted, and its record reclaimed.
    if (!names(key_link, is_key, &gone)) return gone ? Applied::kConflict : Applied::kBad;
    const KeyRecord* key = &tables_.key(key_link.unit());
    if (key->node.load(std::memory_order_relaxed) != node_link.raw) return Applied::kBad;
    applied = replace(node_link.unit(), key_link.unit(), Link(operation.getRecord()),
                      usable_spare(Link(operation.getSpareChunk())), operation.getMoved(), winner);
  }
  if (applied == Applied::kDone) raise_below(node_link.unit());
  return applied;
}

Committer::Applied Committer::apply_delete(Link key_link, std::uint64_t* winner) {
  *winner = 0;
  bool gone = false;
  // A key that is gone has been deleted, and its record reclaimed.
  if (!names(key_link, is_key, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  const Link node_link(tables_.key(key_link.unit()).node.load(std::memory_order_relaxed));
  if (!names(node_link, is_node, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  const Applied applied = remove(node_link.unit(), key_link.unit(), winner);
  if (applied == Applied::kDone) raise_below(node_link.unit());
  return applied;
}

void Committer::note_write(std::uint32_t key_unit) {
  reclaimer_.note(
      Link(tables_.key(key_unit).cell.generation.load(std::memory_order_relaxed), key_unit));
  Header& header = tables_.header();
  const std::uint64_t position = header.ring_next.load(std::memory_order_relaxed);
  CommittedWrite& entry = header.ring[position % kCommitRing];
  // Readers of the ring skip entries above the clock, so these need no undo; the position does.
  entry.version.store(version_, std::memory_order_release);
  entry.key.store(
      Link(tables_.key(key_unit).cell.generation.load(std::memory_order_relaxed), key_unit).raw,
      std::memory_order_release);
  tables_.journal.set_often(header.ring_next, position + 1);
}

Committer::Applied Committer::replace(std::uint32_t node_unit, std::uint32_t key_unit,
                                      Link record_link, std::uint32_t spare, bool moved,
                                      std::uint64_t* winner) {
  if (changed_since(key_unit, winner)) return Applied::kConflict;
  if (!owns(record_link, is_record)) return Applied::kBad;
  KeyRecord& key = tables_.key(key_unit);
  const Link key_link(key.cell.generation.load(std::memory_order_relaxed), key_unit);
  VersionRecord& record = tables_.record(record_link.unit());
  const Link head(key.head.load(std::memory_order_relaxed));
  VersionRecord* old = head ? &tables_.record(head.unit()) : nullptr;
  record.prev.store(head.raw, std::memory_order_release);
  const bool alive = old != nullptr && old->died_at.load(std::memory_order_relaxed) == 0;
  if (alive) {
    tables_.journal.set(old->died_at, version_);
    superseded(*old);
  }
  if (alive && !moved) {
    RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    shape.place = RecordShape::unpack(old->shape.load(std::memory_order_relaxed)).place;
    record.shape.store(shape.pack(), std::memory_order_release);
    record.chunk.store(old->chunk.load(std::memory_order_relaxed), std::memory_order_release);
  } else {
    // Deleted before: this is a new incarnation, at the end of the order.
    if (!tables_.append_place(node_unit, key_link, record, spare)) return Applied::kBad;
    NodeRecord& node = tables_.node(node_unit);
    tables_.journal.set(node.structure_version, version_);
    if (!alive) tables_.journal.set(node.count, node.count.load(std::memory_order_relaxed) + 1);
  }
  if (!link_record(record_link, key_link, version_)) return Applied::kBad;
  tables_.journal.set(key.head, record_link.raw);
  if (old != nullptr) tables_.retain(key_unit);
  note_write(key_unit);
  return Applied::kDone;
}

Committer::Applied Committer::insert(std::uint32_t node_unit, wire::Operation::Reader operation,
                                     std::uint64_t* winner) {
  const Link key_link(operation.getNewKey());
  const Link record_link(operation.getRecord());
  const std::uint32_t spare = usable_spare(Link(operation.getSpareChunk()));
  if (!owns(key_link, is_key) || !owns(record_link, is_record)) return Applied::kBad;
  KeyRecord& key = tables_.key(key_link.unit());
  if (key.node.load(std::memory_order_relaxed) != operation.getNode() ||
      !well_formed_key(key_link)) {
    return Applied::kBad;
  }
  const KeyShape shape = KeyShape::unpack(key.shape.load(std::memory_order_relaxed));
  const KeyView view(reinterpret_cast<const char*>(&key.key[0]), shape.size, shape.compared);
  const std::uint64_t seed = tables_.header().hash_seed.load(std::memory_order_relaxed);
  const std::uint64_t hash = hash_key(seed, operation.getNode(), view);
  if (const std::uint32_t known = tables_.index.find(operation.getNode(), view, hash); known != 0) {
    const Link head(tables_.key(known).head.load(std::memory_order_relaxed));
    if (head && tables_.record(head.unit()).died_at.load(std::memory_order_relaxed) == 0) {
      *winner = tables_.record(head.unit()).version.load(std::memory_order_relaxed);
      return Applied::kConflict;  // somebody else inserted it since
    }
    return replace(node_unit, known, record_link, spare, /*moved=*/false, winner);
  }
  VersionRecord& record = tables_.record(record_link.unit());
  record.prev.store(0, std::memory_order_release);
  key.head.store(record_link.raw, std::memory_order_release);
  key.retained_next.store(0, std::memory_order_release);
  if (!tables_.append_place(node_unit, key_link, record, spare)) return Applied::kBad;
  if (!link_record(record_link, key_link, version_)) return Applied::kBad;
  tables_.cells.link(key_link.unit());
  tables_.index.insert(key_link);
  NodeRecord& node = tables_.node(node_unit);
  tables_.journal.set(node.structure_version, version_);
  tables_.journal.set(node.count, node.count.load(std::memory_order_relaxed) + 1);
  note_write(key_link.unit());
  return Applied::kDone;
}

Committer::Applied Committer::remove(std::uint32_t node_unit, std::uint32_t key_unit,
                                     std::uint64_t* winner) {
  if (changed_since(key_unit, winner)) return Applied::kConflict;
  const Link head(tables_.key(key_unit).head.load(std::memory_order_relaxed));
  if (!head) return Applied::kConflict;
  VersionRecord& record = tables_.record(head.unit());
  if (record.died_at.load(std::memory_order_relaxed) != 0) return Applied::kConflict;
  tables_.journal.set(record.died_at, version_);
  superseded(record);
  NodeRecord& node = tables_.node(node_unit);
  tables_.journal.set_often(node.structure_version, version_);
  tables_.journal.set_often(node.count, node.count.load(std::memory_order_relaxed) - 1);
  tables_.retain(key_unit);
  note_write(key_unit);
  return Applied::kDone;
}

}  // namespace theus::shm
