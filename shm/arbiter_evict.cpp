// Slots: given to a process that comes, taken back from one that has gone. Lock held.
#include <algorithm>

#include "shm/arbiter_impl.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kExtentsPerSweep = 4096;  // looked at in one piece of an eviction
constexpr std::uint32_t kOrphansPerSweep = 16;    // rebuilt in one piece

}  // namespace

std::optional<std::uint32_t> Arbiter::admit(std::uint32_t pid, std::uint64_t start_time) {
  Header& header = impl_->space.writable();
  for (std::uint32_t i = 0; i < kMaxSlots; ++i) {
    SlotRecord& record = header.slots[i];
    if (record.state.load(std::memory_order_relaxed) !=
        static_cast<std::uint32_t>(SlotState::kFree)) {
      continue;
    }
    Desk& desk = impl_->space.desk(i);
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
    if (i >= header.slots_high.load(std::memory_order_relaxed)) {
      // Before the slot is anybody's: surveys and scans that come later cover it.
      header.slots_high.store(i + 1, std::memory_order_seq_cst);
    }
    record.assigned.store(0, std::memory_order_release);
    StepJournal& journal = impl_->tables.journal;
    journal.begin(kNoVersion);
    journal.set(record.pid, pid);
    journal.set(record.admitted_sequence,
                record.admitted_sequence.load(std::memory_order_relaxed) + 1);
    journal.set(record.state, static_cast<std::uint32_t>(SlotState::kAdmitted));
    journal.end();
    return i;
  }
  return std::nullopt;
}

bool Arbiter::evict(std::uint32_t gone) {
  if (gone >= kMaxSlots) return true;
  Header& header = impl_->space.writable();
  SlotRecord& record = header.slots[gone];
  if (record.state.load(std::memory_order_relaxed) ==
      static_cast<std::uint32_t>(SlotState::kFree)) {
    return true;
  }
  // Every line may be repeated from the start by another process if we die.
  if (impl_->waits(gone)) {
    const std::uint64_t version = impl_->committed_unanswered(gone);
    impl_->answer(gone, version != 0 ? Decision{Outcome::kCommitted, version}
                                     : Decision{Outcome::kDiscarded});
  }
  record.state.store(static_cast<std::uint32_t>(SlotState::kLeaving), std::memory_order_release);
  if (header.turn_slot.load(std::memory_order_relaxed) == gone + 1) {
    header.turn_slot.store(0, std::memory_order_release);
  }
  Desk& desk = impl_->space.desk(gone);
  const std::uint32_t pins = std::min(desk.pins_high.load(std::memory_order_acquire), kPinsPerDesk);
  for (std::uint32_t i = 0; i < pins; ++i) desk.pins[i].store(0, std::memory_order_release);
  const std::uint32_t blocks =
      std::min(desk.block_pins_high.load(std::memory_order_acquire), kBlockPinsPerDesk);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    desk.block_pins[i].store(0, std::memory_order_release);
  }
  for (std::uint32_t i = 0; i < kRecordsPerReclaim; ++i) {
    if (!impl_->committer.bury_nursery(gone)) break;
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
