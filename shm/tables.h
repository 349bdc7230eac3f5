// What the lock owner does to nodes, keys and chunks: the pieces that a commit and reclamation
// share. Lock held, inside a step.
#pragma once

#include <cstdint>

#include "shm/cells.h"
#include "shm/extents.h"
#include "shm/index.h"
#include "shm/journal.h"
#include "shm/space.h"
#include "shm/versions.h"

namespace theus::shm {

// Everything the lock owner works with, wired together once per process.
struct Tables {
  explicit Tables(const Space& shared)
      : space(shared),
        journal(shared),
        extents(shared, journal),
        cells(shared, journal, extents),
        index(shared, journal) {}

  Header& header() const { return space.writable(); }
  KeyRecord& key(std::uint32_t unit) const { return *space.writable_cell<KeyRecord>(unit); }
  NodeRecord& node(std::uint32_t unit) const { return *space.writable_cell<NodeRecord>(unit); }
  VersionRecord& record(std::uint32_t unit) const {
    return *space.writable_cell<VersionRecord>(unit);
  }
  OrderChunk& chunk(std::uint32_t unit) const { return *space.writable_cell<OrderChunk>(unit); }

  // True if `link` names a cell of that kind that `slot` has filled and not yet given away.
  bool owns(std::uint32_t slot, Link link, bool (*fits)(std::uint8_t cell_class)) const {
    const auto place = locate_cell(space, link.unit());
    if (!place || place->head.owner != slot || !fits(place->cell_class())) return false;
    const auto* cell = space.writable_cell<CellHeader>(link.unit());
    return cell->generation.load(std::memory_order_acquire) == link.generation() &&
           cell->state.load(std::memory_order_acquire) == kCellHeld;
  }
  // True if `link` names a cell of that kind that is part of the state. *gone: it was one once.
  bool names(Link link, bool (*fits)(std::uint8_t cell_class), bool* gone) const {
    const auto place = locate_cell(space, link.unit());
    if (!place || !fits(place->cell_class())) return false;
    const auto* cell = space.writable_cell<CellHeader>(link.unit());
    *gone = cell->generation.load(std::memory_order_relaxed) != link.generation() ||
            cell->state.load(std::memory_order_relaxed) != kCellLinked;
    return !*gone;
  }

  // Gives `record` (not yet linked) a place at the end of the node's order and enters `key` there.
  // `spare`: a filled empty chunk to use if there is no place left. False: there was neither.
  bool append_place(std::uint32_t node_unit, Link key_link, VersionRecord& record,
                    std::uint32_t spare);
  // Empties a place; frees the chunk when it was the last one in use.
  void clear_place(std::uint32_t node_unit, std::uint32_t chunk_unit, std::uint32_t place);

  // The key has a version that is no longer the newest: somebody has to come back for it.
  void retain(std::uint32_t key_unit);
  // The first of the retained queue leaves it. 0: empty.
  std::uint32_t pop_retained();

  void bury(std::uint32_t node_unit);   // the node's binding is gone: its contents are garbage
  std::uint32_t pop_dead();

  const Space& space;
  StepJournal journal;
  Extents extents;
  Cells cells;
  Index index;

 private:
  void enqueue(Word& head, Word& tail, Word& count, std::uint32_t unit, HalfWord* tail_next);
};

}  // namespace theus::shm
