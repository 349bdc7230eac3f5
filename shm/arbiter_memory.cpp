// The arbiter's part in memory: reclamation, what stocks buy, growth of the index. Lock held.
#include <algorithm>

#include "shm/arbiter_impl.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kCommitsPerReclaim = 64;
constexpr std::uint64_t kHopsPerGrant = 2048;
constexpr std::uint32_t kCellsPutBackAtOnce = 512;
constexpr std::uint32_t kRawExtentsAtOnce = 16;    // 1 MiB: what is backed for a small need

}  // namespace

// Recycled memory: whatever it held, nothing in it is linked from now on. Generations go on from
// what is there. Not journalled: until the run's head is stored the memory is nobody's.
void Arbiter::Impl::unlink_cells(std::uint64_t extent, std::uint8_t cell_class) {
  const bool is_run = cell_class >= kCellClassCount;
  const std::uint32_t cells = is_run ? 1 : cells_per_extent(cell_class);
  const std::uint32_t size = is_run ? 0 : kCellBytes[cell_class];
  std::byte* base = space.writable_base() + tables.extents.offset_of(extent);
  for (std::uint32_t i = 0; i < cells; ++i) {
    reinterpret_cast<CellHeader*>(base + std::uint64_t{i} * size)
        ->state.store(kNoCell, std::memory_order_release);
  }
}

bool Arbiter::reclaim(std::uint32_t records_max) {
  impl_->commits_since_reclaim = 0;
  const bool more = impl_->reclaimer.run(records_max);
  Header& header = impl_->space.writable();
  if (!garbage()) header.backlog.store(0, std::memory_order_release);
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

void Arbiter::put_back_cells(std::vector<std::uint32_t>& units) {
  impl_->tables.journal.begin(kNoVersion);
  for (std::uint32_t i = 0; i < kCellsPutBackAtOnce && !units.empty(); ++i) {
    impl_->tables.cells.release(units.back());
    units.pop_back();
  }
  impl_->tables.journal.end();
}

Arbiter::Grant Arbiter::grant(GrantRequest& request) {
  Tables& tables = impl_->tables;
  Header& header = impl_->space.writable();
  const std::uint64_t used = header.used_extents.load(std::memory_order_relaxed);
  const std::uint64_t backed = header.backed_extents.load(std::memory_order_relaxed);
  // No use in looking for warm memory where there cannot be any.
  if (!request.raw_too && backed - used < request.length) {
    request.raw_too = true;
    request.hops = 0;
  }
  if (request.hops == 0) request.at = header.search_hint.load(std::memory_order_relaxed);
  RunSearch search{request.at, request.hops, request.raw_too};
  std::uint64_t found = 0;
  tables.journal.begin(kNoVersion);
  const RunFound outcome = tables.extents.find(search, request.length, kHopsPerGrant, &found);
  request.at = search.at;
  request.hops = search.hops;
  if (tables.journal.full()) {
    tables.journal.undo();
    return Grant::kMore;
  }
  if (outcome != RunFound::kFound) {
    tables.journal.end();
    if (outcome == RunFound::kMore) return Grant::kMore;
    if (request.raw_too) return Grant::kNone;
    request.raw_too = true;
    request.hops = 0;
    return Grant::kMore;
  }
  const ExtentHead free_run = tables.extents.head(found);
  const bool raw = free_run.kind == ExtentKind::kFreeRaw;
  request.extent = found;
  request.taken = raw ? std::min(std::max(request.length, kRawExtentsAtOnce), free_run.length)
                      : request.length;
  ExtentHead head;
  head.owner = static_cast<std::uint16_t>(impl_->slot);
  head.cell_class = request.cell_class;
  head.kind = raw ? ExtentKind::kGranting
              : request.cell_class < kCellClassCount ? ExtentKind::kCells
                                                     : ExtentKind::kRun;
  if (!raw) impl_->unlink_cells(found, request.cell_class);
  tables.extents.take(found, request.taken, head);
  tables.journal.end();
  header.search_hint.store(found + request.taken < tables.extents.count() &&
                                   tables.extents.head(found + request.taken).length != 0
                               ? found + request.taken
                               : 0,
                           std::memory_order_relaxed);
  return raw ? Grant::kRaw : Grant::kBacked;
}

void Arbiter::settle(const GrantRequest& request, bool backed) {
  Tables& tables = impl_->tables;
  tables.journal.begin(kNoVersion);
  if (!backed) {
    tables.extents.release(request.extent, /*backed=*/false);
  } else {
    impl_->unlink_cells(request.extent, request.cell_class);
    ExtentHead head = tables.extents.head(request.extent);
    head.kind = request.cell_class < kCellClassCount ? ExtentKind::kCells : ExtentKind::kRun;
    if (request.taken > request.length) {
      // The surplus: a run of its own first, then ours gets shorter, then it becomes free.
      ExtentHead surplus = head;
      surplus.length = request.taken - request.length;
      tables.extents.set_head(request.extent + request.length, surplus);
      head.length = request.length;
      tables.extents.set_head(request.extent, head);
      tables.extents.release(request.extent + request.length, /*backed=*/true);
    } else {
      tables.extents.set_head(request.extent, head);
    }
  }
  tables.journal.end();
}

void Arbiter::return_run(std::uint64_t extent) {
  const ExtentHead head = impl_->tables.extents.head(extent);
  if (head.kind != ExtentKind::kRun || head.owner != impl_->slot) return;
  impl_->tables.journal.begin(kNoVersion);
  impl_->tables.extents.release(extent, /*backed=*/true);
  impl_->tables.journal.end();
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
