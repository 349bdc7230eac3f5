#include "shm/linker.h"

#include "shm/index.h"

namespace theus::shm {

// The kind is one of ours, and its inline bytes fit into the record's cell: readers copy them.
bool Linker::well_formed(Link link) const {
  const RecordShape shape =
      RecordShape::unpack(tables_.record(link.unit()).shape.load(std::memory_order_relaxed));
  const auto kind = static_cast<std::uint8_t>(shape.kind);
  if (kind == 0 || kind > kLastValueKind) return false;
  if (shape.kind != ValueKind::kStr && shape.kind != ValueKind::kBytes) return true;
  const bool wide = locate_cell(tables_.space, link.unit())->cell_class() == kWideRecord;
  return shape.length <= (wide ? kWideInlineBytes : kSmallInlineBytes);
}

bool Linker::link_record(Link record_link, Link key_link, std::uint64_t version) {
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
bool Linker::link_tree(Link top, Link bound_to) {
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
bool Linker::link_pending(std::uint32_t pending, std::uint64_t* keys) {
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

bool Linker::link_chunk(std::uint32_t node_unit, Link chunk_link, std::uint32_t prev,
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

bool Linker::link_entry(std::uint32_t node_unit, Link key_link, std::uint32_t chunk_unit,
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

bool Linker::finish_entry(Link key_link) {
  tables_.key(key_link.unit()).retained_next.store(0, std::memory_order_release);
  tables_.cells.link(key_link.unit());
  tables_.index.insert(key_link);
  return true;
}

// Its sizes fit its cell, it is not queued, and its place in the index is the one of its key.
bool Linker::well_formed_key(Link link) const {
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

}  // namespace theus::shm
