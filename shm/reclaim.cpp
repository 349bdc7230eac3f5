#include "shm/reclaim.h"

#include <algorithm>

namespace theus::shm {
namespace {

// Records whose end is written in one step: keeps a step far inside the journal.
constexpr std::uint32_t kRecordsPerStep = 512;

bool holds_block(ValueKind kind) {
  return kind == ValueKind::kBlock || kind == ValueKind::kStrBlock ||
         kind == ValueKind::kBytesBlock;
}

}  // namespace

bool Reclaimer::removable(const VersionRecord& record) const {
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (!scan_.invisible(record.version.load(std::memory_order_relaxed),
                       record.died_at.load(std::memory_order_relaxed))) {
    return false;
  }
  return !holds_block(shape.kind) ||
         !scan_.block_pinned(record.value[0].load(std::memory_order_relaxed));
}

void Reclaimer::release_record(std::uint32_t unit) {
  const VersionRecord& record = tables_.record(unit);
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  const Link value(record.value[0].load(std::memory_order_relaxed));
  if (holds_block(shape.kind)) {
    tables_.cells.release(value.unit());
  } else if (shape.kind == ValueKind::kNode) {
    tables_.bury(value.unit());
  }
  tables_.cells.release(unit);
}

Reclaimer::Pruned Reclaimer::prune_chain(std::uint32_t key_unit, std::uint32_t records_max) {
  Pruned result;
  KeyRecord& key = tables_.key(key_unit);
  const std::uint32_t node_unit = Link(key.node.load(std::memory_order_relaxed)).unit();
  std::uint32_t newer = 0;  // the nearest newer record that stays
  Link at(key.head.load(std::memory_order_relaxed));
  auto same_place = [this](std::uint32_t a, const VersionRecord& b) {
    if (a == 0) return false;
    const VersionRecord& other = tables_.record(a);
    return other.chunk.load(std::memory_order_relaxed) ==
               b.chunk.load(std::memory_order_relaxed) &&
           RecordShape::unpack(other.shape.load(std::memory_order_relaxed)).place ==
               RecordShape::unpack(b.shape.load(std::memory_order_relaxed)).place;
  };
  while (at) {
    if (result.freed + result.kept >= records_max) {
      result.unfinished = true;
      break;
    }
    const std::uint32_t unit = at.unit();
    VersionRecord& record = tables_.record(unit);
    const Link prev(record.prev.load(std::memory_order_relaxed));
    if (removable(record)) {
      tables_.journal.set(newer != 0 ? tables_.record(newer).prev : key.head, prev.raw);
      if (!same_place(newer, record) && !same_place(prev.unit(), record)) {
        tables_.clear_place(
            node_unit, record.chunk.load(std::memory_order_relaxed),
            RecordShape::unpack(record.shape.load(std::memory_order_relaxed)).place);
      }
      release_record(unit);
      ++result.freed;
    } else {
      if (record.died_at.load(std::memory_order_relaxed) != 0) ++result.kept;
      newer = unit;
    }
    at = prev;
  }
  return result;
}

// The first key of the retained queue: prune what can go; the key itself goes with its last
// version, or back to the end of the queue if something is still pinned.
void Reclaimer::step_retained() {
  tables_.journal.begin(kNoVersion);
  const std::uint32_t unit = tables_.pop_retained();
  if (unit != 0) {
    KeyRecord& key = tables_.key(unit);
    if (key.head.load(std::memory_order_relaxed) == 0) {
      // Its node has been buried meanwhile: only the cell was left, for this queue's sake.
      tables_.cells.release(unit);
      progress_ = true;
    } else {
      const Pruned pruned = prune_chain(unit, std::min(budget_ + 1, kRecordsPerStep));
      budget_ -= std::min(budget_, pruned.freed + pruned.kept);
      progress_ = progress_ || pruned.freed > 0;
      if (key.head.load(std::memory_order_relaxed) == 0) {
        tables_.index.remove(Link(key.cell.generation.load(std::memory_order_relaxed), unit));
        tables_.cells.release(unit);
      } else if (pruned.kept > 0 || pruned.unfinished) {
        tables_.retain(unit);
      }
    }
  }
  if (tables_.journal.full()) {
    tables_.journal.undo();
  } else {
    tables_.journal.end();
  }
}

// One key of the first dead node, or the node itself when it is empty. False: the queue is empty,
// or its first node waits for a held view and has gone to the end.
bool Reclaimer::step_dead() {
  Header& header = tables_.header();
  const auto node_unit =
      static_cast<std::uint32_t>(header.dead_head.load(std::memory_order_relaxed));
  if (node_unit == 0) return false;
  StepJournal& journal = tables_.journal;
  NodeRecord& node = tables_.node(node_unit);
  const Link first(node.first_chunk.load(std::memory_order_relaxed));
  bool more = true;
  journal.begin(kNoVersion);
  if (!first) {
    tables_.pop_dead();
    tables_.cells.release(node_unit);
    progress_ = true;
  } else {
    OrderChunk& chunk = tables_.chunk(first.unit());
    const ChunkShape shape = ChunkShape::unpack(chunk.shape.load(std::memory_order_relaxed));
    std::uint32_t place = 0;
    while (place < shape.used && chunk.places()[place].load(std::memory_order_relaxed) == 0) ++place;
    if (place == shape.used) {
      // Nothing is left in this chunk.
      const Link next(chunk.next.load(std::memory_order_relaxed));
      journal.set(node.first_chunk, next.raw);
      if (next) journal.set(tables_.chunk(next.unit()).prev, 0);
      if (!next) journal.set(node.last_chunk, 0);
      tables_.cells.release(first.unit());
    } else {
      const Link key_link(chunk.places()[place].load(std::memory_order_relaxed));
      KeyRecord& key = tables_.key(key_link.unit());
      // A key has one place per incarnation: a place of an earlier one names the same record.
      bool pinned = false;
      std::uint32_t records = 0;
      for (Link at(key.head.load(std::memory_order_relaxed)); at && records < kRecordsPerStep;
           ++records) {
        const VersionRecord& record = tables_.record(at.unit());
        const RecordShape kind = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
        pinned = pinned || (holds_block(kind.kind) &&
                            scan_.block_pinned(record.value[0].load(std::memory_order_relaxed)));
        at = Link(record.prev.load(std::memory_order_relaxed));
      }
      if (pinned) {
        // A view is held of something in here; everything else in this node waits with it.
        tables_.pop_dead();
        tables_.bury(node_unit);
        more = false;
      } else {
        records = 0;
        Link at(key.head.load(std::memory_order_relaxed));
        for (; at && records < kRecordsPerStep; ++records) {
          VersionRecord& record = tables_.record(at.unit());
          const Link prev(record.prev.load(std::memory_order_relaxed));
          const RecordShape where =
              RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
          const std::uint32_t its_chunk = record.chunk.load(std::memory_order_relaxed);
          if (its_chunk != first.unit() || where.place != place) {
            // Another incarnation's place, perhaps in another chunk of this node.
            OrderChunk& elsewhere = tables_.chunk(its_chunk);
            if (elsewhere.places()[where.place].load(std::memory_order_relaxed) == key_link.raw) {
              journal.set(elsewhere.places()[where.place], 0);
            }
          }
          release_record(at.unit());
          at = prev;
        }
        journal.set(key.head, at.raw);
        if (!at) {
          journal.set(chunk.places()[place], 0);
          tables_.index.remove(key_link);
          // Still in the retained queue: that queue frees the cell when it comes to it.
          const KeyShape key_shape = KeyShape::unpack(key.shape.load(std::memory_order_relaxed));
          if (!key_shape.queued) tables_.cells.release(key_link.unit());
        }
        budget_ -= std::min(budget_, records + 1);
        progress_ = true;
      }
    }
  }
  if (journal.full()) {
    journal.undo();
    more = false;
  } else {
    journal.end();
  }
  return more;
}

bool Reclaimer::run(std::uint32_t records_max) {
  Header& header = tables_.header();
  if (header.retained_count.load(std::memory_order_relaxed) == 0 &&
      header.dead_head.load(std::memory_order_relaxed) == 0) {
    return false;
  }
  scan_.scan(tables_.space);
  budget_ = records_max;
  progress_ = false;
  // Once round the queue at the most: what is still pinned comes back to its end.
  const std::uint64_t keys = header.retained_count.load(std::memory_order_relaxed);
  for (std::uint64_t i = 0; i < keys && budget_ > 0; ++i) {
    step_retained();
    budget_ -= budget_ > 0 ? 1 : 0;
  }
  const std::uint64_t dead = header.dead_count.load(std::memory_order_relaxed);
  std::uint64_t waiting = 0;
  while (budget_ > 0 && header.dead_head.load(std::memory_order_relaxed) != 0 &&
         waiting <= dead) {
    if (!step_dead()) ++waiting;
  }
  return progress_;
}

}  // namespace theus::shm
