#include "shm/tables.h"

namespace theus::shm {

bool Tables::append_place(std::uint32_t node_unit, Link key_link, VersionRecord& new_record,
                          std::uint32_t spare) {
  NodeRecord& home = node(node_unit);
  const std::uint32_t last = home.last_chunk.load(std::memory_order_relaxed);
  std::uint32_t target = last;
  ChunkShape shape{};
  if (last != 0) shape = ChunkShape::unpack(chunk(last).shape.load(std::memory_order_relaxed));
  if (last == 0 || shape.used >= shape.capacity) {
    if (spare == 0) return false;
    target = spare;
    OrderChunk& fresh = chunk(spare);
    const auto place = locate_cell(space, spare);
    if (!place || !is_chunk(place->cell_class())) return false;
    shape = {static_cast<std::uint8_t>(chunk_capacity(place->cell_class())), 0, 0};
    // Nobody can see the spare chunk before the link below is stored.
    fresh.next.store(0, std::memory_order_release);
    fresh.prev.store(last, std::memory_order_release);
    fresh.shape.store(shape.pack(), std::memory_order_release);
    cells.link(spare);
    const Link link(fresh.cell.generation.load(std::memory_order_relaxed), spare);
    journal.set(last != 0 ? chunk(last).next : home.first_chunk, link.raw);
    journal.set(home.last_chunk, spare);
  }
  OrderChunk& page = chunk(target);
  const std::uint8_t place = shape.used;
  // The place before the count that makes readers look at it.
  journal.set(page.places()[place], key_link.raw);
  ++shape.used;
  ++shape.live;
  journal.set(page.shape, shape.pack());
  RecordShape record_shape =
      RecordShape::unpack(new_record.shape.load(std::memory_order_relaxed));
  record_shape.place = place;
  new_record.chunk.store(target, std::memory_order_release);
  new_record.shape.store(record_shape.pack(), std::memory_order_release);
  return true;
}

void Tables::clear_place(std::uint32_t node_unit, std::uint32_t chunk_unit, std::uint32_t place) {
  OrderChunk& page = chunk(chunk_unit);
  ChunkShape shape = ChunkShape::unpack(page.shape.load(std::memory_order_relaxed));
  if (place >= shape.used || page.places()[place].load(std::memory_order_relaxed) == 0) return;
  journal.set(page.places()[place], 0);
  if (shape.live > 0) --shape.live;
  journal.set(page.shape, shape.pack());
  NodeRecord& home = node(node_unit);
  const bool last = home.last_chunk.load(std::memory_order_relaxed) == chunk_unit;
  if (shape.live > 0 || (last && shape.used < shape.capacity)) return;
  const std::uint64_t next = page.next.load(std::memory_order_relaxed);
  const std::uint32_t prev = page.prev.load(std::memory_order_relaxed);
  journal.set(prev != 0 ? chunk(prev).next : home.first_chunk, next);
  if (next != 0) {
    journal.set(chunk(Link(next).unit()).prev, prev);
  } else {
    journal.set(home.last_chunk, prev);
  }
  cells.release(chunk_unit);
}

void Tables::enqueue(Word& head, Word& tail, Word& count, std::uint32_t unit, HalfWord* tail_next) {
  if (tail_next != nullptr) {
    journal.set(*tail_next, unit);
  } else {
    journal.set(head, unit);
  }
  journal.set_often(tail, unit);
  journal.set_often(count, count.load(std::memory_order_relaxed) + 1);
}

void Tables::retain(std::uint32_t key_unit) {
  KeyRecord& subject = key(key_unit);
  KeyShape shape = KeyShape::unpack(subject.shape.load(std::memory_order_relaxed));
  if (shape.queued) return;
  shape.queued = true;
  journal.set(subject.shape, shape.pack());
  Header& h = header();
  const auto tail = static_cast<std::uint32_t>(h.retained_tail.load(std::memory_order_relaxed));
  enqueue(h.retained_head, h.retained_tail, h.retained_count, key_unit,
          tail != 0 ? &key(tail).retained_next : nullptr);
}

std::uint32_t Tables::pop_retained() {
  Header& h = header();
  const auto unit = static_cast<std::uint32_t>(h.retained_head.load(std::memory_order_relaxed));
  if (unit == 0) return 0;
  KeyRecord& subject = key(unit);
  const std::uint32_t next = subject.retained_next.load(std::memory_order_relaxed);
  journal.set(h.retained_head, next);
  if (next == 0) {
    journal.set(h.retained_tail, 0);
  } else {
    journal.set(subject.retained_next, 0);  // as in every key that is not in the queue
  }
  journal.set(h.retained_count, h.retained_count.load(std::memory_order_relaxed) - 1);
  KeyShape shape = KeyShape::unpack(subject.shape.load(std::memory_order_relaxed));
  shape.queued = false;
  journal.set(subject.shape, shape.pack());
  return unit;
}

void Tables::bury(std::uint32_t node_unit) {
  journal.set(node(node_unit).dead_next, 0);
  Header& h = header();
  const auto tail = static_cast<std::uint32_t>(h.dead_tail.load(std::memory_order_relaxed));
  enqueue(h.dead_head, h.dead_tail, h.dead_count, node_unit,
          tail != 0 ? &node(tail).dead_next : nullptr);
}

std::uint32_t Tables::pop_dead() {
  Header& h = header();
  const auto unit = static_cast<std::uint32_t>(h.dead_head.load(std::memory_order_relaxed));
  if (unit == 0) return 0;
  const std::uint32_t next = node(unit).dead_next.load(std::memory_order_relaxed);
  journal.set(h.dead_head, next);
  if (next == 0) journal.set(h.dead_tail, 0);
  journal.set(h.dead_count, h.dead_count.load(std::memory_order_relaxed) - 1);
  return unit;
}

}  // namespace theus::shm
