// Cells under the lock: linking, freeing, and giving freed ones back to whoever fills them.
//
// An extent of cells has one owner, the worker that fills its free cells without any lock (its
// stock, worker/stock.h). A cell is *linked* while something reachable names it; everything else
// in the extent belongs to the owner, and when the owner dies, sweeping its extents for what is
// not linked gives all of it back: there is no list of leases to be kept. Freed cells collect in
// the extent's free list, and an extent that has some stands in its owner's collect list, or, when
// it has no owner, among the orphans of its class, where any worker may adopt it.
//
// All functions: lock held, inside a step of `journal`, unless they say otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/extents.h"

namespace theus::shm {

class Cells {
 public:
  Cells(const Space& space, StepJournal& journal, Extents& extents)
      : space_(space), journal_(journal), extents_(extents) {}

  // The cell is reachable from now on.
  void link(std::uint32_t unit);

  // Nothing reachable names the cell any more. Its fields stay as they are, for readers that still
  // stand on it, until its owner fills it again (raising the generation first).
  void release(std::uint32_t unit);

  // Moves the free cells of one extent of `cell_class` that `slot` owns, or of one orphan, which
  // it then owns, to `units` (capacity for cells_per_extent more must be reserved). False: none.
  bool collect(std::uint32_t slot, std::uint8_t cell_class, std::vector<std::uint32_t>& units);

  // Rebuilds the free list of an extent whose owner is gone and makes it an orphan, or free memory
  // if it holds nothing linked and its class may be used otherwise. A step of its own: must be
  // called outside of one.
  void orphan(std::uint64_t extent);

 private:
  HalfWord& collect_head(std::uint16_t owner, std::uint8_t cell_class);
  void enlist(std::uint64_t extent, std::uint16_t owner, std::uint8_t cell_class);
  void delist(std::uint64_t extent, std::uint16_t owner, std::uint8_t cell_class);
  void all_free(const CellPlace& place);
  CellHeader& cell_in(std::uint64_t extent, std::uint8_t cell_class, std::uint32_t index);

  const Space& space_;
  StepJournal& journal_;
  Extents& extents_;
};

}  // namespace theus::shm
