#include "shm/extents.h"

namespace theus::shm {
namespace {

bool is_free(ExtentHead head, bool raw_too) {
  return head.kind == ExtentKind::kFreeBacked || (raw_too && head.kind == ExtentKind::kFreeRaw);
}

}  // namespace

RunFound Extents::find(RunSearch& search, std::uint32_t length, std::uint64_t hops_max,
                       std::uint64_t* found) {
  const std::uint64_t extents = count();
  // A head that was there in an earlier hold of the lock may have been joined to its neighbour.
  if (search.at >= extents || head(search.at).kind == ExtentKind::kNotHead) search.at = 0;
  for (std::uint64_t hop = 0; hop < hops_max; ++hop, ++search.hops) {
    // Twice round the table finds whatever was free when the search began.
    if (search.hops > 2 * extents + 2) return RunFound::kNone;
    ExtentHead here = head(search.at);
    if (here.length == 0 || here.length > extents - search.at) return RunFound::kNone;  // damaged
    if (is_free(here, search.raw_too)) {
      std::uint64_t next = search.at + here.length;
      // Joining is a step of the search as any other: the run so far stays, and is found again.
      while (here.length < length && next < extents && is_free(head(next), search.raw_too)) {
        if (++hop >= hops_max) return RunFound::kMore;
        const ExtentHead neighbour = head(next);
        if (neighbour.kind != here.kind) {
          // Partly backed counts as not backed: allocating it again does no harm.
          const bool here_backed = here.kind == ExtentKind::kFreeBacked;
          count_backed(-static_cast<std::int64_t>(here_backed ? here.length : neighbour.length));
          here.kind = ExtentKind::kFreeRaw;
        }
        here.length += neighbour.length;
        set_head(search.at, here);
        journal_.set(table()[next].head, 0);
        next = search.at + here.length;
      }
      if (here.length >= length) {
        *found = search.at;
        return RunFound::kFound;
      }
    }
    search.at += here.length;
    if (search.at >= extents) search.at = 0;
  }
  return RunFound::kMore;
}

void Extents::count_used(std::int64_t extents) {
  Word& used = space_.writable().used_extents;
  journal_.set(used, used.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(extents));
}

void Extents::count_backed(std::int64_t extents) {
  Word& backed = space_.writable().backed_extents;
  journal_.set(backed,
               backed.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(extents));
}

void Extents::take(std::uint64_t at, std::uint32_t length, ExtentHead wanted) {
  const ExtentHead free_run = head(at);
  if (free_run.length > length) {
    ExtentHead rest = free_run;
    rest.length -= length;
    set_head(at + length, rest);
  }
  wanted.length = length;
  journal_.set(table()[at].free_list, kNoCell);
  journal_.set(table()[at].listed, 0);
  journal_.set(table()[at].free_count, 0);
  set_head(at, wanted);
  count_used(length);
  if (free_run.kind == ExtentKind::kFreeRaw) count_backed(length);
}

void Extents::release(std::uint64_t at, bool backed) {
  ExtentHead run = head(at);
  run.kind = backed ? ExtentKind::kFreeBacked : ExtentKind::kFreeRaw;
  run.cell_class = 0;
  run.owner = kNoSlot;
  count_used(-static_cast<std::int64_t>(run.length));
  if (!backed) count_backed(-static_cast<std::int64_t>(run.length));
  set_head(at, run);
}

std::optional<CellPlace> locate_cell(const Space& space, std::uint32_t unit) {
  const Header& header = space.header();
  const std::uint64_t base = header.extents_offset.load(std::memory_order_relaxed);
  const std::uint64_t offset = std::uint64_t{unit} * kUnitBytes;
  if (offset < base) return std::nullopt;
  const std::uint64_t extent = (offset - base) / kExtentBytes;
  if (extent >= header.extent_count.load(std::memory_order_relaxed)) return std::nullopt;
  const ExtentHead head =
      ExtentHead::unpack(header.extents[extent].head.load(std::memory_order_acquire));
  const auto inside = static_cast<std::uint32_t>((offset - base) % kExtentBytes);
  if (head.kind == ExtentKind::kRun) {
    if (inside != 0) return std::nullopt;
    return CellPlace{extent, 0, head};
  }
  if (head.kind != ExtentKind::kCells || head.cell_class >= kCellClassCount) return std::nullopt;
  const std::uint32_t size = kCellBytes[head.cell_class];
  const std::uint32_t index = inside / size;
  if (index * size != inside || index >= cells_per_extent(head.cell_class)) return std::nullopt;
  return CellPlace{extent, index, head};
}

}  // namespace theus::shm
