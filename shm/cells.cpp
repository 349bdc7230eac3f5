#include "shm/cells.h"

namespace theus::shm {

HalfWord& Cells::collect_head(std::uint16_t owner, std::uint8_t cell_class) {
  Header& header = space_.writable();
  return owner < kMaxSlots ? header.slots[owner].collect[cell_class] : header.orphans[cell_class];
}

CellHeader& Cells::cell_in(std::uint64_t extent, std::uint8_t cell_class, std::uint32_t index) {
  const std::uint64_t offset =
      extents_.offset_of(extent) + std::uint64_t{index} * kCellBytes[cell_class];
  return *reinterpret_cast<CellHeader*>(space_.writable_base() + offset);
}

void Cells::enlist(std::uint64_t extent, std::uint16_t owner, std::uint8_t cell_class) {
  ExtentRecord& record = extents_.table()[extent];
  HalfWord& list = collect_head(owner, cell_class);
  const std::uint32_t next = list.load(std::memory_order_relaxed);
  journal_.set(record.list_next, next);
  journal_.set(record.list_prev, 0);
  if (next != 0) {
    journal_.set(extents_.table()[next - 1].list_prev, static_cast<std::uint32_t>(extent + 1));
  }
  journal_.set(record.listed, 1);
  journal_.set(list, static_cast<std::uint32_t>(extent + 1));
}

void Cells::delist(std::uint64_t extent, std::uint16_t owner, std::uint8_t cell_class) {
  ExtentRecord& record = extents_.table()[extent];
  const std::uint32_t next = record.list_next.load(std::memory_order_relaxed);
  const std::uint32_t prev = record.list_prev.load(std::memory_order_relaxed);
  journal_.set(prev != 0 ? extents_.table()[prev - 1].list_next : collect_head(owner, cell_class),
               next);
  if (next != 0) journal_.set(extents_.table()[next - 1].list_prev, prev);
  journal_.set(record.listed, 0);
}

// Every cell of the extent is in its free list, so nobody's stock has any: it need not stay with
// its owner. Blocks may become anything; structural cells stay what they are, for anybody.
void Cells::all_free(const CellPlace& place) {
  const std::uint8_t cell_class = place.head.cell_class;
  if (cell_class >= kFirstBlock) {
    delist(place.extent, place.head.owner, cell_class);
    extents_.release(place.extent, /*backed=*/true);
  } else if (place.head.owner != kNoSlot) {
    delist(place.extent, place.head.owner, cell_class);
    ExtentHead ownerless = place.head;
    ownerless.owner = kNoSlot;
    extents_.set_head(place.extent, ownerless);
    enlist(place.extent, kNoSlot, cell_class);
  }
}

void Cells::link(std::uint32_t unit) {
  journal_.set(space_.writable_cell<CellHeader>(unit)->state, kCellLinked);
}

void Cells::release(std::uint32_t unit) {
  const auto place = locate_cell(space_, unit);
  if (!place) return;
  auto* cell = space_.writable_cell<CellHeader>(unit);
  if (place->head.kind == ExtentKind::kRun) {
    journal_.set(cell->state, kNoCell);
    extents_.release(place->extent, /*backed=*/true);
    return;
  }
  ExtentRecord& record = extents_.table()[place->extent];
  const std::uint32_t first = record.free_list.load(std::memory_order_relaxed);
  journal_.set(cell->state, first);
  journal_.set(record.free_list, place->index);
  const std::uint32_t free_cells = record.free_count.load(std::memory_order_relaxed) + 1;
  journal_.set(record.free_count, free_cells);
  if (record.listed.load(std::memory_order_relaxed) == 0) {
    enlist(place->extent, place->head.owner, place->head.cell_class);
  }
  if (free_cells == cells_per_extent(place->head.cell_class)) all_free(*place);
}

bool Cells::collect(std::uint32_t slot, std::uint8_t cell_class,
                    std::vector<std::uint32_t>& units) {
  Header& header = space_.writable();
  HalfWord* list = &header.slots[slot].collect[cell_class];
  bool adopting = false;
  if (list->load(std::memory_order_relaxed) == 0) {
    list = &header.orphans[cell_class];
    adopting = true;
  }
  const std::uint32_t first = list->load(std::memory_order_relaxed);
  if (first == 0) return false;
  const std::uint64_t extent = first - 1;
  ExtentRecord& record = extents_.table()[extent];
  delist(extent, adopting ? kNoSlot : static_cast<std::uint16_t>(slot), cell_class);
  if (adopting) {
    ExtentHead head = extents_.head(extent);
    head.owner = static_cast<std::uint16_t>(slot);
    extents_.set_head(extent, head);
  }
  const std::uint64_t base_unit = extents_.offset_of(extent) / kUnitBytes;
  const std::uint32_t cells = cells_per_extent(cell_class);
  std::uint32_t index = record.free_list.load(std::memory_order_relaxed);
  // Bounded by the extent's cells, whatever the list says.
  for (std::uint32_t n = 0; n < cells && index < cells; ++n) {
    units.push_back(
        static_cast<std::uint32_t>(base_unit + index * kCellBytes[cell_class] / kUnitBytes));
    index = cell_in(extent, cell_class, index).state.load(std::memory_order_relaxed);
  }
  journal_.set(record.free_list, kNoCell);
  journal_.set(record.free_count, 0);
  return true;
}

void Cells::orphan(std::uint64_t extent) {
  const ExtentHead head = extents_.head(extent);
  const std::uint8_t cell_class = head.cell_class;
  const std::uint32_t cells = cells_per_extent(cell_class);
  // Not journalled: what is not linked was the dead owner's, nobody else follows these words, and
  // whoever repeats the sweep after us writes them all again.
  std::uint32_t first = kNoCell;
  std::uint32_t free_cells = 0;
  for (std::uint32_t index = cells; index-- > 0;) {
    CellHeader& cell = cell_in(extent, cell_class, index);
    if (cell.state.load(std::memory_order_relaxed) == kCellLinked) continue;
    cell.state.store(first, std::memory_order_release);
    first = index;
    ++free_cells;
  }
  journal_.begin(kNoVersion);
  if (extents_.table()[extent].listed.load(std::memory_order_relaxed) != 0) {
    delist(extent, head.owner, cell_class);
  }
  if (free_cells == cells && cell_class >= kFirstBlock) {
    extents_.release(extent, /*backed=*/true);
  } else {
    ExtentHead ownerless = head;
    ownerless.owner = kNoSlot;
    extents_.set_head(extent, ownerless);
    journal_.set(extents_.table()[extent].free_list, first);
    journal_.set(extents_.table()[extent].free_count, free_cells);
    if (first != kNoCell) enlist(extent, kNoSlot, cell_class);
  }
  journal_.end();
}

}  // namespace theus::shm
