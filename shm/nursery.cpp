// The nursery: what is linked before the delta that binds it. Part of Linker.
#include "shm/linker.h"

namespace theus::shm {
namespace {

constexpr std::uint64_t kPrelinkKeys = 512;  // linked in one hold of the lock

}  // namespace

// True if the node stands in the worker's nursery; then it is bound to `bound_to` now. The nursery
// is a doubly linked list: `dead_next`, and back through `unlinked`, which is free for that once
// all of a node is linked (only the newest node can be unfinished: nodes come deepest first).
bool Linker::leave_nursery(Link node_link, Link bound_to) {
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

Linker::Prelinked Linker::prelink(std::uint32_t slot, Link top) noexcept {
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

bool Linker::bury_nursery(std::uint32_t slot) {
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

}  // namespace theus::shm
