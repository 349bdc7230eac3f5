#include "worker/stock.h"

#include <cstring>
#include <string>

namespace theus::worker {

using shm::CellHeader;
using shm::Link;

namespace {
constexpr std::uint32_t kReclaimBatch = 2048;  // records per hold of the lock when memory is short
constexpr int kReclaimRounds = 100000;         // bound on giving back a full state
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

// Two mappings can be emptied before anything has come back.
std::size_t Stock::kept(std::uint8_t cell_class) {
  return cell_class == shm::kNode || cell_class == shm::kSmallRecord ? 2 : 0;
}

Link Stock::take(std::uint8_t cell_class, Use use) {
  std::vector<std::uint32_t>& cells = free_[cell_class];
  if (cells.size() <= (use == Use::kFreeing ? 0 : kept(cell_class))) refill(cell_class, use);
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
  space_.writable_cell<CellHeader>(cell.unit())
      ->state.store(shm::kNoCell, std::memory_order_release);
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
std::vector<std::uint32_t> Stock::room_for(std::uint8_t cell_class, std::size_t times) {
  std::vector<std::uint32_t> room;
  room.reserve(times * shm::cells_per_extent(cell_class));
  return room;
}

void Stock::add(const std::vector<std::uint32_t>& cells, std::uint8_t cell_class) {
  free_[cell_class].insert(free_[cell_class].end(), cells.begin(), cells.end());
}

void Stock::refill(std::uint8_t cell_class, Use use) {
  const std::vector<std::uint32_t>& cells = free_[cell_class];
  const std::size_t floor = use == Use::kFreeing ? 0 : kept(cell_class);
  // An extent gives at least one cell: this often is enough.
  const std::size_t times = floor + 1;
  std::vector<std::uint32_t> collected = room_for(cell_class, times);
  lock_(OnSignal::kGiveUp);
  // What has been freed in our own extents comes first: it is warm, and it keeps memory bounded.
  if (arbiter_.garbage()) arbiter_.reclaim_sometimes();
  for (std::size_t i = 0; i < times && cells.size() + collected.size() <= floor; ++i) {
    if (!arbiter_.collect_cells(cell_class, collected)) break;
  }
  arbiter_.unlock();
  add(collected, cell_class);
  if (cells.size() > floor) return;
  shm::Arbiter::GrantRequest wanted;
  wanted.cell_class = cell_class;
  const std::uint64_t extent = grant(wanted, use);
  if (extent != 0) add_extent(extent, cell_class);
}

Stock::Tried Stock::try_grant(shm::Arbiter::GrantRequest request, std::uint64_t* extent,
                              std::string* why) {
  const shm::Arbiter::GrantRequest wanted = request;
  for (;;) {
    lock_(OnSignal::kGiveUp);
    const shm::Arbiter::Grant granted = arbiter_.grant(request);
    arbiter_.unlock();
    if (granted == shm::Arbiter::Grant::kMore) continue;
    if (granted == shm::Arbiter::Grant::kNone) {
      if (request.warm_only) return Tried::kFull;  // the system's refusal is the reason
      *why = "the state's capacity of " + std::to_string(space_.capacity_bytes() >> 20) +
             " MiB is used up";
      return request.reserve_lent ? Tried::kLent : Tried::kFull;
    }
    bool backed = true;
    if (granted == shm::Arbiter::Grant::kRaw) {
      const std::uint64_t offset = arbiter_.extent_offset(request.extent);
      const std::uint64_t bytes = request.taken * shm::kExtentBytes;
      backed = space_.back(offset, bytes, why);
      // Whatever part of it there is would be forgotten.
      if (!backed) space_.punch(offset, bytes);
      lock_(OnSignal::kGoOn);
      arbiter_.settle(request, backed);
      arbiter_.unlock();
    }
    *extent = request.extent;
    if (backed) return Tried::kGranted;
    if (wanted.in_reserve) return Tried::kFull;
    request = wanted;
    request.warm_only = true;
  }
}

void Stock::return_unused(std::uint8_t except) {
  for (std::uint8_t each = 0; each < shm::kCellClassCount; ++each) {
    while (each != except && free_[each].size() > kept(each)) {
      lock_(OnSignal::kGiveUp);
      arbiter_.put_back_cells(free_[each], kept(each));
      arbiter_.unlock();
    }
  }
}

// 0: cells of the class have been collected instead (extent 0 is never granted).
std::uint64_t Stock::grant(const shm::Arbiter::GrantRequest& wanted, Use use) {
  std::uint64_t extent = 0;
  std::string why;
  const std::uint8_t cell_class = wanted.cell_class;
  const bool cells = cell_class < shm::kCellClassCount;
  const bool freeing = use == Use::kFreeing;
  shm::Arbiter::GrantRequest from_reserve = wanted;
  from_reserve.in_reserve = true;
  if (try_grant(wanted, &extent, &why) == Tried::kGranted) return extent;
  // A run from the reserve goes back at once; cells would stay, so they come last.
  if (freeing && !cells) {
    const Tried tried = try_grant(from_reserve, &extent, &why);
    if (tried == Tried::kGranted) return extent;
    if (tried == Tried::kLent) throw ReserveLent(why);
  }
  // Full, as it seems. What is superseded and not pinned must go before anybody is told so, and
  // what this process has bought and does not use.
  return_unused(cell_class);
  const std::size_t floor = cells && !freeing ? kept(cell_class) : 0;
  bool more = true;
  for (int round = 0; more && round < kReclaimRounds; ++round) {
    std::vector<std::uint32_t> collected = room_for(cells ? cell_class : std::uint8_t{0}, 1);
    lock_(OnSignal::kGiveUp);
    more = arbiter_.reclaim(kReclaimBatch) || arbiter_.reclaim_found();
    if (cells) arbiter_.collect_cells(cell_class, collected);
    arbiter_.unlock();
    if (cells) add(collected, cell_class);
    if (cells && free_[cell_class].size() > floor) return 0;
    if (try_grant(wanted, &extent, &why) == Tried::kGranted) return extent;
  }
  if (freeing && cells && try_grant(from_reserve, &extent, &why) == Tried::kGranted) return extent;
  throw CapacityError("no room for " + std::to_string(wanted.length * shm::kExtentBytes >> 10) +
                      " KiB more: " + why + "; nothing was written: " +
                      (freeing ? "delete in smaller transactions, or a mapping as a whole, "
                               : "delete something, ") +
                      "close old snapshots and views, or start the coordinator with a larger "
                      "capacity");
}

Link Stock::take_run(std::uint64_t bytes, Use use) {
  if (bytes > space_.capacity_bytes()) {
    throw CapacityError("a value of " + std::to_string(bytes) +
                        " bytes is larger than the whole state (" +
                        std::to_string(space_.capacity_bytes() >> 20) +
                        " MiB); nothing was written: start the coordinator with a larger capacity");
  }
  shm::Arbiter::GrantRequest wanted;
  wanted.length = static_cast<std::uint32_t>((bytes + shm::kExtentBytes - 1) / shm::kExtentBytes);
  wanted.cell_class = shm::kRunClass;
  const std::uint64_t extent = grant(wanted, use);
  return hold(static_cast<std::uint32_t>(arbiter_.extent_offset(extent) / shm::kUnitBytes));
}

void Stock::grow_index(std::uint64_t keys) {
  shm::Arbiter::GrantRequest wanted;
  wanted.cell_class = shm::kDirectoryClass;
  while (arbiter_.index_wants_segment(keys)) {
    std::uint64_t extent = 0;
    std::string why;
    // Without the segment the index gets slower, not wrong: no reason to fail a commit.
    if (try_grant(wanted, &extent, &why) != Tried::kGranted) break;
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
