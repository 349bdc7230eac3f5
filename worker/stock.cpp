#include "worker/stock.h"

#include <cstring>
#include <string>

#include "worker/session.h"

namespace theus::worker {

using shm::CellHeader;
using shm::Link;

namespace {
constexpr std::uint32_t kReclaimBatch = 2048;   // records per hold of the lock when memory is short
constexpr int kReclaimRounds = 100000;          // bound on giving back a full state
}  // namespace

Stock::Stock(const shm::Space& space, shm::Arbiter& arbiter, Lock lock)
    : space_(space), arbiter_(arbiter), lock_(std::move(lock)) {}

Link Stock::hold(std::uint32_t unit) {
  auto* cell = space_.writable_cell<CellHeader>(unit);
  const std::uint32_t generation =
      shm::next_generation(cell->generation.load(std::memory_order_relaxed));
  // Before the first field is written (release stores, all of them): a reader that still stands on
  // this cell reads the generation again after the fields, and starts again.
  cell->generation.store(generation, std::memory_order_release);
  cell->state.store(shm::kCellHeld, std::memory_order_release);
  return Link(generation, unit);
}

Link Stock::take(std::uint8_t cell_class) {
  std::vector<std::uint32_t>& cells = free_[cell_class];
  if (cells.empty()) refill(cell_class);
  const std::uint32_t unit = cells.back();
  cells.pop_back();
  return hold(unit);
}

bool Stock::held(Link cell) const {
  // The generation, too: linked, freed, collected and held again by another transaction of this
  // process, the cell is no longer ours.
  const auto* header = space_.writable_cell<CellHeader>(cell.unit());
  return header->state.load(std::memory_order_acquire) == shm::kCellHeld &&
         header->generation.load(std::memory_order_acquire) == cell.generation();
}

void Stock::give_back(Link cell, std::uint8_t cell_class) {
  if (cell_class == shm::kRunClass) {
    lock_(OnSignal::kGoOn);
    const std::uint64_t first = arbiter_.extent_offset(0);
    arbiter_.return_run((cell.offset() - first) / shm::kExtentBytes);
    arbiter_.unlock();
    return;
  }
  space_.writable_cell<CellHeader>(cell.unit())->state.store(shm::kNoCell,
                                                             std::memory_order_release);
  free_[cell_class].push_back(cell.unit());
}

void Stock::add_extent(std::uint64_t extent, std::uint8_t cell_class) {
  const std::uint64_t base = arbiter_.extent_offset(extent);
  const std::uint32_t cells = shm::cells_per_extent(cell_class);
  free_[cell_class].reserve(free_[cell_class].size() + cells);
  for (std::uint32_t i = cells; i-- > 0;) {
    free_[cell_class].push_back(static_cast<std::uint32_t>(
        (base + std::uint64_t{i} * shm::kCellBytes[cell_class]) / shm::kUnitBytes));
  }
}

// Room for what is collected under the lock, where nothing may be allocated. Not in the stock
// itself: another thread may use that up while this one waits for the lock.
std::vector<std::uint32_t> Stock::room_for(std::uint8_t cell_class) {
  std::vector<std::uint32_t> room;
  room.reserve(shm::cells_per_extent(cell_class));
  return room;
}

void Stock::add(const std::vector<std::uint32_t>& cells, std::uint8_t cell_class) {
  free_[cell_class].insert(free_[cell_class].end(), cells.begin(), cells.end());
}

void Stock::refill(std::uint8_t cell_class) {
  std::vector<std::uint32_t> collected = room_for(cell_class);
  lock_(OnSignal::kGiveUp);
  // What has been freed in our own extents comes first: it is warm, and it keeps memory bounded.
  if (arbiter_.garbage()) arbiter_.reclaim_sometimes();
  arbiter_.collect_cells(cell_class, collected);
  arbiter_.unlock();
  add(collected, cell_class);
  if (!free_[cell_class].empty()) return;
  const std::uint64_t extent = grant(1, cell_class);
  if (extent != 0) add_extent(extent, cell_class);
}

bool Stock::try_grant(std::uint32_t length, std::uint8_t cell_class, std::uint64_t* extent,
                      std::string* why) {
  shm::Arbiter::GrantRequest request;
  request.length = length;
  request.cell_class = cell_class;
  shm::Arbiter::Grant granted;
  do {
    lock_(OnSignal::kGiveUp);
    granted = arbiter_.grant(request);
    arbiter_.unlock();
  } while (granted == shm::Arbiter::Grant::kMore);
  if (granted == shm::Arbiter::Grant::kNone) {
    *why = "the state's capacity of " + std::to_string(space_.capacity_bytes() >> 20) +
           " MiB is used up";
    return false;
  }
  bool backed = true;
  if (granted == shm::Arbiter::Grant::kRaw) {
    backed = space_.back(arbiter_.extent_offset(request.extent),
                         request.taken * shm::kExtentBytes, why);
    lock_(OnSignal::kGoOn);
    arbiter_.settle(request, backed);
    arbiter_.unlock();
  }
  *extent = request.extent;
  return backed;
}

void Stock::return_unused(std::uint8_t except) {
  for (std::uint8_t each = 0; each < shm::kCellClassCount; ++each) {
    while (each != except && !free_[each].empty()) {
      lock_(OnSignal::kGiveUp);
      arbiter_.put_back_cells(free_[each]);
      arbiter_.unlock();
    }
  }
}

// 0: cells of the class have been collected instead (extent 0 is never granted).
std::uint64_t Stock::grant(std::uint32_t length, std::uint8_t cell_class) {
  std::uint64_t extent = 0;
  std::string why;
  if (try_grant(length, cell_class, &extent, &why)) return extent;
  // Full, as it seems. What is superseded and not pinned must go before anybody is told so, and
  // what this process has bought and does not use.
  return_unused(cell_class);
  const bool cells = cell_class < shm::kCellClassCount;
  bool more = true;
  for (int round = 0; more && round < kReclaimRounds; ++round) {
    std::vector<std::uint32_t> collected = room_for(cells ? cell_class : std::uint8_t{0});
    lock_(OnSignal::kGiveUp);
    more = arbiter_.reclaim(kReclaimBatch) || arbiter_.reclaim_found();
    if (cells) arbiter_.collect_cells(cell_class, collected);
    arbiter_.unlock();
    if (!collected.empty()) {
      add(collected, cell_class);
      return 0;
    }
    if (try_grant(length, cell_class, &extent, &why)) return extent;
  }
  throw CapacityError("no room for " + std::to_string(length * shm::kExtentBytes >> 10) +
                      " KiB more: " + why +
                      "; nothing was written: delete something, close old snapshots and views, or "
                      "start the coordinator with a larger capacity");
}

Link Stock::take_run(std::uint64_t bytes) {
  const std::uint64_t extents = (bytes + shm::kExtentBytes - 1) / shm::kExtentBytes;
  if (extents > space_.capacity_bytes() / shm::kExtentBytes) {
    throw CapacityError("a value of " + std::to_string(bytes) +
                        " bytes is larger than the whole state (" +
                        std::to_string(space_.capacity_bytes() >> 20) +
                        " MiB); nothing was written: start the coordinator with a larger capacity");
  }
  const std::uint64_t extent = grant(static_cast<std::uint32_t>(extents), shm::kRunClass);
  return hold(static_cast<std::uint32_t>(arbiter_.extent_offset(extent) / shm::kUnitBytes));
}

void Stock::grow_index(std::uint64_t keys) {
  while (arbiter_.index_wants_segment(keys)) {
    std::uint64_t extent = 0;
    std::string why;
    // Without the segment the index gets slower, not wrong: no reason to fail a commit.
    if (!try_grant(1, shm::kDirectoryClass, &extent, &why)) break;
    std::memset(space_.writable_base() + arbiter_.extent_offset(extent), 0, shm::kExtentBytes);
    lock_(OnSignal::kGoOn);
    arbiter_.install_segment(extent);
    arbiter_.unlock();
  }
  lock_(OnSignal::kGiveUp);
  arbiter_.grow_index(keys);
  arbiter_.unlock();
}

}  // namespace theus::worker
