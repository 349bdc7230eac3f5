#include "shm/reclaim.h"

#include <algorithm>

namespace theus::shm {
namespace {

// Records freed in one step: keeps a step far inside the journal.
constexpr std::uint32_t kRecordsPerStep = 512;
// Records looked at in one chain: more than a scan can tell pins apart, so that behind kept ones
// there is nothing to be found.
constexpr std::uint32_t kHopsPerChain = 8192;

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
  for (std::uint32_t hop = 0; at; ++hop) {
    if (result.freed >= records_max || hop >= kHopsPerChain) {
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

void Reclaimer::prune_recent() {
  for (Link& link : recent_) {
    if (!link || budget_ == 0) continue;
    const KeyRecord& key = tables_.key(link.unit());
    const bool still = key.cell.generation.load(std::memory_order_relaxed) == link.generation() &&
                       key.cell.state.load(std::memory_order_relaxed) == kCellLinked;
    // The newest record and one behind it are not worth a step; the queue comes to them.
    const Link head(still ? key.head.load(std::memory_order_relaxed) : 0);
    const Link second(head ? tables_.record(head.unit()).prev.load(std::memory_order_relaxed) : 0);
    if (second) {
      tables_.journal.begin(kNoVersion);
      // Never the last record: taking the key away is the queue's business.
      const VersionRecord& newest = tables_.record(head.unit());
      if (newest.died_at.load(std::memory_order_relaxed) == 0) {
        const Pruned pruned = prune_chain(link.unit(), std::min(budget_, kRecordsPerStep));
        budget_ -= std::min(budget_, pruned.freed);
        progress_ = progress_ || pruned.freed > 0;
      }
      if (tables_.journal.full()) {
        tables_.journal.undo();
      } else {
        tables_.journal.end();
      }
    }
    link = Link();
  }
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
      budget_ -= std::min(budget_, pruned.freed + pruned.kept / 8);
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

bool Reclaimer::holds_pinned_block(const KeyRecord& key) const {
  std::uint32_t hops = 0;
  for (Link at(key.head.load(std::memory_order_relaxed)); at && hops < kHopsPerChain; ++hops) {
    const VersionRecord& record = tables_.record(at.unit());
    const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    if (holds_block(shape.kind) &&
        scan_.block_pinned(record.value[0].load(std::memory_order_relaxed))) {
      return true;
    }
    at = Link(record.prev.load(std::memory_order_relaxed));
  }
  return false;
}

// Frees the records of a key of a dead node, and the key when none is left. False: not now.
bool Reclaimer::free_dead_key(std::uint32_t node_unit, Link chunk_link, std::uint32_t place) {
  StepJournal& journal = tables_.journal;
  OrderChunk& chunk = tables_.chunk(chunk_link.unit());
  const Link key_link(chunk.places()[place].load(std::memory_order_relaxed));
  KeyRecord& key = tables_.key(key_link.unit());
  if (holds_pinned_block(key)) {
    // A view is held of something in here; everything else in this node waits with it.
    tables_.pop_dead();
    tables_.bury(node_unit);
    return false;
  }
  std::uint32_t records = 0;
  Link at(key.head.load(std::memory_order_relaxed));
  for (; at && records < kRecordsPerStep; ++records) {
    VersionRecord& record = tables_.record(at.unit());
    const Link prev(record.prev.load(std::memory_order_relaxed));
    const RecordShape where = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    const std::uint32_t its_chunk = record.chunk.load(std::memory_order_relaxed);
    if (its_chunk != chunk_link.unit() || where.place != place) {
      // Another incarnation's place, perhaps in another chunk of this node.
      Word& elsewhere = tables_.chunk(its_chunk).places()[where.place];
      if (elsewhere.load(std::memory_order_relaxed) == key_link.raw) journal.set(elsewhere, 0);
    }
    release_record(at.unit());
    at = prev;
  }
  journal.set(key.head, at.raw);
  if (!at) {
    journal.set(chunk.places()[place], 0);
    tables_.index.remove(key_link);
    // Still in the retained queue: that queue frees the cell when it comes to it.
    const KeyShape shape = KeyShape::unpack(key.shape.load(std::memory_order_relaxed));
    if (!shape.queued) tables_.cells.release(key_link.unit());
  }
  budget_ -= std::min(budget_, records);
  progress_ = true;
  return true;
}

// One key of the first dead node, or an empty chunk of it, or the node itself when it is empty.
// True: the node is done with for this round, gone or at the end of the queue.
bool Reclaimer::step_dead() {
  Header& header = tables_.header();
  const auto node_unit =
      static_cast<std::uint32_t>(header.dead_head.load(std::memory_order_relaxed));
  if (node_unit == 0) return true;
  bool done = false;
  StepJournal& journal = tables_.journal;
  NodeRecord& node = tables_.node(node_unit);
  const Link first(node.first_chunk.load(std::memory_order_relaxed));
  journal.begin(kNoVersion);
  if (!first) {
    tables_.pop_dead();
    tables_.cells.release(node_unit);
    progress_ = done = true;
  } else {
    OrderChunk& chunk = tables_.chunk(first.unit());
    const ChunkShape shape = ChunkShape::unpack(chunk.shape.load(std::memory_order_relaxed));
    std::uint32_t place = 0;
    while (place < shape.used && chunk.places()[place].load(std::memory_order_relaxed) == 0) {
      ++place;
    }
    if (place == shape.used) {
      const Link next(chunk.next.load(std::memory_order_relaxed));
      journal.set(node.first_chunk, next.raw);
      if (next) journal.set(tables_.chunk(next.unit()).prev, 0);
      if (!next) journal.set(node.last_chunk, 0);
      tables_.cells.release(first.unit());
      progress_ = true;
    } else {
      done = !free_dead_key(node_unit, first, place);
    }
  }
  if (journal.full()) {
    journal.undo();
    return true;
  }
  journal.end();
  return done;
}

bool Reclaimer::run(std::uint32_t records_max) {
  Header& header = tables_.header();
  if (header.retained_count.load(std::memory_order_relaxed) == 0 &&
      header.dead_head.load(std::memory_order_relaxed) == 0) {
    keys_left_ = nodes_left_ = 0;
    round_progress_ = false;
    return false;
  }
  scan_.scan(tables_.space);
  budget_ = records_max;
  progress_ = false;
  prune_recent();
  if (keys_left_ == 0 && nodes_left_ == 0) {
    keys_left_ = header.retained_count.load(std::memory_order_relaxed);
    nodes_left_ = header.dead_count.load(std::memory_order_relaxed);
    round_progress_ = false;
  }
  // Half for each queue, so that neither waits for the other for ever.
  const std::uint32_t reserve = nodes_left_ > 0 ? records_max / 2 : 0;
  while (keys_left_ > 0 && budget_ > reserve) {
    step_retained();
    --keys_left_;
    budget_ -= std::min(budget_, 1u);
  }
  while (nodes_left_ > 0 && budget_ > 0) {
    if (step_dead()) --nodes_left_;
    budget_ -= std::min(budget_, 1u);
  }
  round_progress_ = round_progress_ || progress_;
  return keys_left_ > 0 || nodes_left_ > 0;
}

}  // namespace theus::shm
