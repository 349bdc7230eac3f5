// Slots: given to a process that comes, taken back from one that has gone. Lock held.
#include <algorithm>

#include "shm/arbiter_impl.h"
#include "shm/pins.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kExtentsPerSweep = 4096;  // looked at in one piece of an eviction
constexpr std::uint32_t kOrphansPerSweep = 16;    // rebuilt in one piece

}  // namespace

std::optional<std::uint32_t> Arbiter::admit(std::uint32_t pid, std::uint64_t start_time) {
  return impl_->occupy(SlotState::kAdmitted, kMaxWorkers, pid, start_time);
}

std::optional<std::uint32_t> Arbiter::lease_spare() {
  return impl_->occupy(SlotState::kSpare, kMaxSpares, 0, 0);
}

// The first free slot, unless `most` are spare, or are not, as `state` is.
std::optional<std::uint32_t> Arbiter::Impl::occupy(SlotState state, std::uint32_t most,
                                                   std::uint32_t pid, std::uint64_t start_time) {
  Header& header = space.writable();
  const std::uint32_t high = std::min(header.slots_high.load(std::memory_order_relaxed), kMaxSlots);
  std::uint32_t chosen = high;
  std::uint32_t alike = 0;
  for (std::uint32_t i = 0; i < high; ++i) {
    const auto other =
        static_cast<SlotState>(header.slots[i].state.load(std::memory_order_relaxed));
    if (other == SlotState::kFree) {
      chosen = std::min(chosen, i);
    } else if ((other == SlotState::kSpare) == (state == SlotState::kSpare)) {
      ++alike;
    }
  }
  if (alike >= most || chosen >= kMaxSlots) return std::nullopt;
  SlotRecord& record = header.slots[chosen];
  Desk& desk = space.desk(chosen);
  // Counters and label are the tenant's; the request word goes on from where it stands.
  Counters& counters = desk.counters;
  for (Word* word : {&counters.commits, &counters.read_only, &counters.conflicts,
                     &counters.rollbacks, &counters.combined, &counters.payload_bytes,
                     &counters.lock_waits, &counters.attached_at_ns}) {
    word->store(0, std::memory_order_relaxed);
  }
  desk.pid.store(pid, std::memory_order_relaxed);
  desk.start_time.store(start_time, std::memory_order_relaxed);
  desk.sleeping.store(0, std::memory_order_relaxed);
  if (chosen >= high) {
    // Before the slot is anybody's: surveys and scans that come later cover it.
    header.slots_high.store(chosen + 1, std::memory_order_seq_cst);
  }
  record.assigned.store(0, std::memory_order_release);
  StepJournal& journal = tables.journal;
  journal.begin(kNoVersion);
  journal.set(record.pid, pid);
  journal.set(record.admitted_sequence,
              record.admitted_sequence.load(std::memory_order_relaxed) + 1);
  journal.set(record.state, static_cast<std::uint32_t>(state));
  journal.end();
  return chosen;
}

bool Arbiter::copy_pins(std::uint32_t from, std::uint32_t to, std::uint64_t admission) {
  if (from >= kMaxSlots || to >= kMaxSlots || from == to) return false;
  const SlotRecord& record = impl_->space.header().slots[to];
  if (record.state.load(std::memory_order_relaxed) !=
          static_cast<std::uint32_t>(SlotState::kSpare) ||
      record.admitted_sequence.load(std::memory_order_relaxed) != admission) {
    return false;
  }
  theus::shm::copy_pins(impl_->space.desk(from), impl_->space.desk(to));
  return true;
}

void Arbiter::Impl::clear_pins(std::uint32_t gone) {
  Desk& desk = space.desk(gone);
  const std::uint32_t pins = std::min(desk.pins_high.load(std::memory_order_acquire), kPinsPerDesk);
  for (std::uint32_t i = 0; i < pins; ++i) desk.pins[i].store(0, std::memory_order_release);
  const std::uint32_t blocks =
      std::min(desk.block_pins_high.load(std::memory_order_acquire), kBlockPinsPerDesk);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    desk.block_pins[i].store(0, std::memory_order_release);
  }
}

bool Arbiter::evict(std::uint32_t gone) {
  if (gone >= kMaxSlots) return true;
  Header& header = impl_->space.writable();
  SlotRecord& record = header.slots[gone];
  const auto state = static_cast<SlotState>(record.state.load(std::memory_order_relaxed));
  if (state == SlotState::kFree) return true;
  // Every line may be repeated from the start by another process if we die.
  if (state == SlotState::kSpare) {
    impl_->clear_pins(gone);  // it never had anything else
    record.state.store(static_cast<std::uint32_t>(SlotState::kFree), std::memory_order_release);
    return true;
  }
  if (impl_->waits(gone)) {
    const std::uint64_t version = impl_->committed_unanswered(gone);
    impl_->answer(gone, version != 0 ? Decision{Outcome::kCommitted, version}
                                     : Decision{Outcome::kDiscarded});
  }
  record.state.store(static_cast<std::uint32_t>(SlotState::kLeaving), std::memory_order_release);
  impl_->end_turn(gone);
  impl_->waiters.remove_all_of(gone);
  impl_->clear_pins(gone);
  for (std::uint32_t i = 0; i < kRecordsPerReclaim; ++i) {
    if (!impl_->linker.bury_nursery(gone)) break;
  }
  if (record.nursery.load(std::memory_order_relaxed) != 0) return false;
  if (!impl_->sweep(gone)) return false;
  for (HalfWord& list : record.collect) list.store(0, std::memory_order_release);
  record.pid.store(0, std::memory_order_relaxed);
  record.state.store(static_cast<std::uint32_t>(SlotState::kFree), std::memory_order_release);
  return true;
}

// Takes the extents of a worker that is gone, a piece at a time. True: there are none left.
bool Arbiter::Impl::sweep(std::uint32_t gone) {
  const std::uint64_t tenant =
      space.header().slots[gone].admitted_sequence.load(std::memory_order_relaxed);
  if (sweeping != gone || sweeping_tenant != tenant) {
    sweeping = gone;
    sweeping_tenant = tenant;
    sweep_at = 0;
  }
  const std::uint64_t extents = tables.extents.count();
  std::uint32_t orphaned = 0;
  for (std::uint32_t looked = 0; looked < kExtentsPerSweep && sweep_at < extents; ++looked) {
    const ExtentHead head = tables.extents.head(sweep_at);
    if (head.owner != gone || head.kind == ExtentKind::kNotHead) {
      ++sweep_at;
      continue;
    }
    StepJournal& journal = tables.journal;
    switch (head.kind) {
      case ExtentKind::kCells:
        if (++orphaned > kOrphansPerSweep) return false;
        tables.cells.orphan(sweep_at);
        break;
      case ExtentKind::kGranting:
        journal.begin(kNoVersion);
        tables.extents.release(sweep_at, /*backed=*/false);
        journal.end();
        break;
      case ExtentKind::kRun: {
        const auto* cell = reinterpret_cast<const CellHeader*>(space.writable_base() +
                                                               tables.extents.offset_of(sweep_at));
        journal.begin(kNoVersion);
        if (cell->state.load(std::memory_order_relaxed) == kCellLinked) {
          ExtentHead ownerless = head;
          ownerless.owner = kNoSlot;
          tables.extents.set_head(sweep_at, ownerless);
        } else {
          tables.extents.release(sweep_at, /*backed=*/true);
        }
        journal.end();
        break;
      }
      default:
        break;
    }
    ++sweep_at;
  }
  if (sweep_at < extents) return false;
  sweeping = kNoSlot;
  return true;
}

}  // namespace theus::shm
