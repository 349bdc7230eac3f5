#include "shm/extents.h"

namespace theus::shm {
namespace {

bool is_free(ExtentHead head, bool raw_too) {
  return head.kind == ExtentKind::kFreeBacked || (raw_too && head.kind == ExtentKind::kFreeRaw);
}

}  // namespace

RunFound Extents::find(RunSearch& search, std::uint32_t length, std::uint64_t hops_max,
                       std::uint64_t* found, std::uint64_t* span) {
  const std::uint64_t begin = search.in_reserve ? reserve_at() : 0;
  const std::uint64_t end = search.in_reserve ? count() : reserve_at();
  if (begin >= end) return RunFound::kNone;
  // A head that was there in an earlier hold of the lock may have been joined to its neighbour.
  if (search.at < begin || search.at >= end || head(search.at).kind == ExtentKind::kNotHead) {
    search.at = begin;
  }
  for (std::uint64_t hop = 0; hop < hops_max; ++hop, ++search.hops) {
    // Twice round the table finds whatever was free when the search began.
    if (search.hops > 2 * (end - begin) + 2) return RunFound::kNone;
    ExtentHead here = head(search.at);
    if (here.length == 0 || here.length > end - search.at) return RunFound::kNone;  // damaged
    std::uint64_t free_extents = here.length;
    if (is_free(here, search.raw_too)) {
      std::uint64_t last = search.at;  // the head of the run that the span ends with
      while ((free_extents < length || search.to_high_end) && search.at + free_extents < end) {
        const std::uint64_t next = search.at + free_extents;
        const ExtentHead neighbour = head(next);
        if (!is_free(neighbour, search.raw_too)) break;
        if (neighbour.length == 0 || neighbour.length > end - next) return RunFound::kNone;
        if (++hop >= hops_max) {
          if (free_extents >= length) break;
          // The next call must not have to start from here again.
          join(search.at, free_extents);
          return RunFound::kMore;
        }
        if (neighbour.kind == here.kind) {
          here.length += neighbour.length;
          set_head(last, here);
          journal_.set(table()[next].head, 0);
        } else {
          here = neighbour;
          last = next;
        }
        free_extents += neighbour.length;
      }
      if (free_extents >= length) {
        *found = search.at;
        *span = free_extents;
        return RunFound::kFound;
      }
    }
    search.at += free_extents;
    if (search.at >= end) search.at = begin;
  }
  return RunFound::kMore;
}

// Makes the free runs of [at, at + span) one. Partly backed counts as not backed: allocating it
// again does no harm.
void Extents::join(std::uint64_t at, std::uint64_t span) {
  const std::uint64_t raw = count_raw(at, span);
  ExtentHead joined = head(at);
  if (joined.length == span) return;
  for (std::uint64_t each = at + joined.length; each < at + span;) {
    const std::uint32_t length = head(each).length;
    journal_.set(table()[each].head, 0);
    each += length;
  }
  joined.kind = raw == 0 ? ExtentKind::kFreeBacked : ExtentKind::kFreeRaw;
  joined.length = static_cast<std::uint32_t>(span);
  set_head(at, joined);
  if (raw != 0) count_backed(-static_cast<std::int64_t>(span - raw));
}

std::uint64_t Extents::count_raw(std::uint64_t at, std::uint64_t length) const {
  std::uint64_t raw = 0;
  for (const std::uint64_t end = at + length; at < end;) {
    const ExtentHead run = head(at);
    if (run.length == 0) break;  // damaged
    if (run.kind == ExtentKind::kFreeRaw) raw += std::min<std::uint64_t>(run.length, end - at);
    at += run.length;
  }
  return raw;
}

void Extents::split(std::uint64_t run, std::uint64_t at) {
  ExtentHead left = head(run);
  while (left.length != 0 && run + left.length <= at) {
    run += left.length;
    left = head(run);
  }
  if (run == at || left.length == 0) return;
  ExtentHead right = left;
  left.length = static_cast<std::uint32_t>(at - run);
  right.length -= left.length;
  set_head(at, right);
  set_head(run, left);
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
  const std::uint64_t end = at + length;
  std::uint64_t raw = 0;
  for (std::uint64_t each = at; each < end;) {
    const ExtentHead free_run = head(each);
    if (free_run.length == 0) break;  // damaged
    const std::uint64_t part = std::min<std::uint64_t>(free_run.length, end - each);
    if (free_run.kind == ExtentKind::kFreeRaw) raw += part;
    if (part < free_run.length) {
      ExtentHead rest = free_run;
      rest.length -= static_cast<std::uint32_t>(part);
      set_head(end, rest);
    }
    if (each != at) journal_.set(table()[each].head, 0);
    each += part;
  }
  wanted.length = length;
  journal_.set(table()[at].free_list, kNoCell);
  journal_.set(table()[at].listed, 0);
  journal_.set(table()[at].free_count, 0);
  set_head(at, wanted);
  count_used(length);
  if (raw != 0) count_backed(static_cast<std::int64_t>(raw));
}

void Extents::release(std::uint64_t at, bool backed) {
  ExtentHead run = head(at);
  run.kind = backed ? ExtentKind::kFreeBacked : ExtentKind::kFreeRaw;
  run.cell_class = 0;
  run.owner = kNoSlot;
  count_used(-static_cast<std::int64_t>(run.length));
  if (!backed) count_backed(-static_cast<std::int64_t>(run.length));
  set_head(at, run);
  Header& header = space_.writable();
  if (at >= reserve_at()) {
    // Whoever waits for a part of the reserve sleeps on this (10 ms at most).
    header.reserve_returns.fetch_add(1, std::memory_order_release);
    return;
  }
  Word& hint = header.low_hint;
  if (at < hint.load(std::memory_order_relaxed)) hint.store(at, std::memory_order_relaxed);
  constexpr auto kIdle = static_cast<std::uint32_t>(PoolWatch::kIdle);
  constexpr auto kSurplus = static_cast<std::uint32_t>(PoolWatch::kSurplus);
  if (header.pool.load(std::memory_order_relaxed) == kIdle && warm() > warm_kept()) {
    header.pool.store(kSurplus, std::memory_order_relaxed);
  }
}

Extents::Reserve Extents::reserve(std::uint32_t slot) const {
  Reserve reserve;
  const std::uint64_t end = count();
  for (std::uint64_t at = reserve_at(); at < end;) {
    const ExtentHead run = head(at);
    if (run.length == 0) break;  // damaged
    if (run.kind == ExtentKind::kFreeBacked) {
      reserve.warm += run.length;
    } else if (run.kind == ExtentKind::kCells) {
      reserve.cells += run.length;
    } else if (run.kind != ExtentKind::kFreeRaw) {
      reserve.lent = reserve.lent || run.owner == kNoSlot || run.owner != slot;
    }
    at += run.length;
  }
  return reserve;
}

std::uint64_t Extents::warm() const {
  const Header& header = space_.header();
  const std::uint64_t outside =
      header.used_extents.load(std::memory_order_relaxed) + reserve(kNoSlot).warm;
  const std::uint64_t backed = header.backed_extents.load(std::memory_order_relaxed);
  return backed > outside ? backed - outside : 0;
}

std::uint64_t Extents::warm_kept() const {
  const Header& header = space_.header();
  return std::max(header.warm_keep.load(std::memory_order_relaxed),
                  header.used_extents.load(std::memory_order_relaxed) / 2);
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
