// The arbiter's part in memory: reclamation, what stocks buy, growth of the index. Lock held.
#include <algorithm>

#include "shm/arbiter_impl.h"
#include "shm/futex.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kCommitsPerReclaim = 64;
constexpr std::uint64_t kHopsPerGrant = 2048;
constexpr std::uint32_t kCellsPutBackAtOnce = 512;
constexpr std::uint32_t kRawExtentsAtOnce = 16;    // 1 MiB: what is backed for a small need
constexpr std::uint64_t kReservePartForCells = 4;  // at most this part of the reserve, or 2 extents

constexpr ExtentKind kind_of(std::uint8_t cell_class) {
  return cell_class < kCellClassCount ? ExtentKind::kCells : ExtentKind::kRun;
}

}  // namespace

// Whatever the memory held, nothing in it is linked from now on. In recycled memory generations go
// on from what is there. Fresh memory is all zeroes, and may have held blocks before it was given
// back to the system: starting from 0 again, new blocks would get the links of those. Not
// journalled: until the run's head is stored the memory is nobody's.
void Arbiter::Impl::unlink_cells(std::uint64_t extent, std::uint8_t cell_class, bool fresh) {
  const std::uint32_t generation = static_cast<std::uint32_t>(
      space.header().lock_sequence.load(std::memory_order_relaxed) * 0x9E3779B1u);
  const bool is_run = cell_class >= kCellClassCount;
  const std::uint32_t cells = is_run ? 1 : cells_per_extent(cell_class);
  const std::uint32_t size = is_run ? 0 : kCellBytes[cell_class];
  std::byte* base = space.writable_base() + tables.extents.offset_of(extent);
  for (std::uint32_t i = 0; i < cells; ++i) {
    auto* cell = reinterpret_cast<CellHeader*>(base + std::uint64_t{i} * size);
    if (fresh) cell->generation.store(generation, std::memory_order_release);
    cell->state.store(kNoCell, std::memory_order_release);
  }
}

bool Arbiter::reclaim(std::uint32_t records_max) {
  impl_->commits_since_reclaim = 0;
  const bool more = impl_->reclaimer.run(records_max);
  Header& header = impl_->space.writable();
  if (!impl_->janitor_wanted()) header.backlog.store(0, std::memory_order_release);
  return more;
}

bool Arbiter::reclaim_found() const { return impl_->reclaimer.round_found(); }

void Arbiter::reclaim_sometimes() {
  if (impl_->committer.take_urgent() || impl_->commits_since_reclaim >= kCommitsPerReclaim) {
    reclaim(kRecordsPerReclaim);
  }
}

bool Arbiter::collect_cells(std::uint8_t cell_class, std::vector<std::uint32_t>& units) {
  impl_->tables.journal.begin(kNoVersion);
  const bool found = impl_->tables.cells.collect(impl_->slot, cell_class, units);
  impl_->tables.journal.end();
  return found;
}

void Arbiter::put_back_cells(std::vector<std::uint32_t>& units, std::size_t keep) {
  impl_->tables.journal.begin(kNoVersion);
  for (std::uint32_t i = 0; i < kCellsPutBackAtOnce && units.size() > keep; ++i) {
    impl_->tables.cells.release(units.back());
    units.pop_back();
  }
  impl_->tables.journal.end();
}

Arbiter::Grant Arbiter::grant(GrantRequest& request) {
  Extents& extents = impl_->tables.extents;
  StepJournal& journal = impl_->tables.journal;
  Header& header = impl_->space.writable();
  if (request.in_reserve) {
    const Extents::Reserve reserve = extents.reserve(impl_->slot);
    request.reserve_lent = reserve.lent;
    // Cells stay: with a bound, so that there is always room for messages and journals.
    const std::uint64_t cells_max =
        std::max<std::uint64_t>(2, (extents.count() - extents.reserve_at()) / kReservePartForCells);
    if (request.cell_class < kCellClassCount && reserve.cells >= cells_max) return Grant::kNone;
  }
  const bool single = request.length == 1;
  if (request.warm_only) {
    if (extents.warm() < request.length) return Grant::kNone;
  } else if (!request.raw_too &&
             (single || request.in_reserve || extents.warm() < request.length)) {
    // (No use in looking for warm memory where there cannot be any.)
    request.raw_too = true;
    request.hops = 0;
  }
  Word& hint = single ? header.low_hint : header.run_hint;
  if (request.hops == 0) request.at = hint.load(std::memory_order_relaxed);
  RunSearch search{request.at, request.hops, request.raw_too, request.in_reserve, !single};
  std::uint64_t found = 0, span = 0;
  journal.begin(kNoVersion);
  const RunFound outcome = extents.find(search, request.length, kHopsPerGrant, &found, &span);
  request.at = search.at;
  request.hops = search.hops;
  if (journal.full()) {
    journal.undo();
    return Grant::kMore;
  }
  if (outcome != RunFound::kFound) {
    journal.end();
    if (outcome == RunFound::kMore) return Grant::kMore;
    if (request.raw_too || request.warm_only) return Grant::kNone;
    request.raw_too = true;
    request.hops = 0;
    return Grant::kMore;
  }
  const auto batch = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(std::max(request.length, kRawExtentsAtOnce), span));
  request.extent = single ? found : found + span - request.length;
  extents.split(found, request.extent);
  const bool raw = extents.count_raw(request.extent, request.length) != 0;
  request.taken = raw ? batch : request.length;
  if (!single) {
    request.extent = found + span - request.taken;
    extents.split(found, request.extent);
  }
  ExtentHead head;
  head.owner = static_cast<std::uint16_t>(impl_->slot);
  head.cell_class = request.cell_class;
  head.kind = raw ? ExtentKind::kGranting : kind_of(request.cell_class);
  if (!raw) impl_->unlink_cells(request.extent, request.cell_class, /*fresh=*/false);
  extents.take(request.extent, request.taken, head);
  journal.end();
  const std::uint64_t warm = extents.warm();
  if (warm < header.warm_low.load(std::memory_order_relaxed)) {
    header.warm_low.store(warm, std::memory_order_relaxed);
  }
  if (!request.in_reserve && !request.warm_only) {
    hint.store(single ? found + request.taken : found, std::memory_order_relaxed);
  }
  return raw ? Grant::kRaw : Grant::kBacked;
}

void Arbiter::settle(GrantRequest& request, bool backed) {
  Tables& tables = impl_->tables;
  Extents& extents = tables.extents;
  tables.journal.begin(kNoVersion);
  if (!backed) {
    extents.release(request.extent, /*backed=*/false);
    tables.journal.end();
    return;
  }
  ExtentHead head = extents.head(request.extent);
  head.kind = kind_of(request.cell_class);
  if (const std::uint32_t surplus = request.taken - request.length; surplus != 0) {
    // Two runs of it first; then the one that was not asked for becomes free.
    const bool single = request.length == 1;
    const std::uint64_t middle = request.extent + (single ? request.length : surplus);
    ExtentHead first = head, second = head;
    first.length = single ? request.length : surplus;
    second.length = request.taken - first.length;
    extents.set_head(middle, second);
    extents.set_head(request.extent, first);
    extents.release(single ? middle : request.extent, /*backed=*/true);
    if (!single) request.extent = middle;
  } else {
    extents.set_head(request.extent, head);
  }
  impl_->unlink_cells(request.extent, request.cell_class, /*fresh=*/true);
  tables.journal.end();
}

void Arbiter::return_run(std::uint64_t extent) {
  const ExtentHead head = impl_->tables.extents.head(extent);
  if (head.kind != ExtentKind::kRun || head.owner != impl_->slot) return;
  impl_->tables.journal.begin(kNoVersion);
  impl_->tables.extents.release(extent, /*backed=*/true);
  impl_->tables.journal.end();
  if (extent >= impl_->tables.extents.reserve_at()) {
    futex_wake(impl_->space.writable().reserve_returns);
  }
}

std::uint32_t Arbiter::reserve_returns() const {
  return impl_->space.header().reserve_returns.load(std::memory_order_acquire);
}

void Arbiter::wait_for_reserve(std::uint32_t seen, std::uint64_t timeout_ns) const {
  futex_wait(impl_->space.header().reserve_returns, seen, timeout_ns);
}

std::uint64_t Arbiter::extent_offset(std::uint64_t extent) const {
  return impl_->tables.extents.offset_of(extent);
}

bool Arbiter::index_wants_segment(std::uint64_t keys_more) const {
  const Header& header = impl_->space.header();
  const std::uint64_t keys = header.key_count.load(std::memory_order_relaxed) + keys_more;
  const std::uint64_t ready = header.segments_ready.load(std::memory_order_relaxed);
  // Enough segments for a table that is not yet dense with `keys` keys.
  return ready < kDirectorySegments && keys > ready * kBucketsPerSegment * 3 / 2;
}

void Arbiter::install_segment(std::uint64_t extent) {
  Tables& tables = impl_->tables;
  tables.journal.begin(kNoVersion);
  ExtentHead head = tables.extents.head(extent);
  head.kind = ExtentKind::kDirectory;
  head.owner = kNoSlot;
  tables.extents.set_head(extent, head);
  tables.index.add_segment(extent);
  tables.journal.end();
}

void Arbiter::grow_index(std::uint64_t keys_more) {
  const Header& header = impl_->space.header();
  const std::uint64_t keys = header.key_count.load(std::memory_order_relaxed) + keys_more;
  if (!Index::wants_growth(header, keys)) return;
  impl_->tables.journal.begin(kNoVersion);
  impl_->tables.index.double_buckets(keys);
  impl_->tables.journal.end();
}

}  // namespace theus::shm
