#include "shm/arbiter.h"

#include <time.h>

#include <algorithm>

#include "shm/commit.h"
#include "shm/futex.h"
#include "shm/lock.h"
#include "shm/reclaim.h"
#include "shm/tables.h"
#include "shm/waiters.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kCommitsPerReclaim = 64;
constexpr std::uint32_t kRecordsPerReclaim = 256;
constexpr std::uint64_t kHopsPerGrant = 2048;
constexpr std::uint32_t kExtentsPerSweep = 4096;   // looked at in one piece of an eviction
constexpr std::uint32_t kOrphansPerSweep = 16;     // rebuilt in one piece
constexpr std::uint32_t kCellsPutBackAtOnce = 512;
constexpr std::uint32_t kRawExtentsAtOnce = 16;    // 1 MiB: what is backed for a small need
constexpr std::uint64_t kPinnedPaceNs = 50'000'000;

constexpr std::uint64_t pack_answer(std::uint64_t sequence, Outcome outcome) {
  return sequence << 8 | static_cast<std::uint8_t>(outcome);
}

// Words of `waiting` that slots in use can have set a bit in.
std::uint32_t waiting_groups(const Header& header) {
  const std::uint32_t slots =
      std::min(header.slots_high.load(std::memory_order_acquire), kMaxSlots);
  return (slots + 63) / 64;
}

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ull +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

struct Arbiter::Impl {
  Impl(const Space& shared, std::uint32_t its_slot)
      : space(shared),
        slot(its_slot),
        lock(shared, its_slot),
        tables(shared),
        reclaimer(tables),
        committer(tables, reclaimer),
        waiters(tables) {}

  bool take(Acquired acquired) {
    if (acquired == Acquired::kNo) return false;
    if (acquired == Acquired::kOwnerDied) {
      repair();
      lock.consistent();
    }
    return true;
  }

  void repair();
  bool waits(std::uint32_t other) const;
  std::uint64_t committed_unanswered(std::uint32_t other) const;
  void answer(std::uint32_t other, Decision decision);
  void serve(std::uint32_t other);
  bool blocked_by_turn(std::uint32_t other);
  bool sweep(std::uint32_t gone);
  void unlink_cells(std::uint64_t extent, std::uint8_t cell_class);

  const Space& space;
  const std::uint32_t slot;
  ArbitrationLock lock;
  Tables tables;
  Reclaimer reclaimer;
  Committer committer;
  Waiters waiters;
  std::uint32_t commits_since_reclaim = 0;
  std::uint64_t combined = 0;
  // Where the eviction of `sweeping` stands; a new process starts it again from 0.
  std::uint32_t sweeping = kNoSlot;
  std::uint64_t sweeping_tenant = 0;
  std::uint64_t sweep_at = 0;
};

Arbiter::Arbiter(const Space& space, std::uint32_t slot)
    : impl_(std::make_unique<Impl>(space, slot)) {}
Arbiter::~Arbiter() = default;

bool Arbiter::try_lock() { return impl_->take(impl_->lock.try_acquire()); }

bool Arbiter::lock_for(std::uint64_t nanoseconds) {
  return impl_->take(impl_->lock.acquire_for(nanoseconds));
}

void Arbiter::unlock() {
  Header& header = impl_->space.writable();
  // The janitor sleeps on `backlog` while it is 0. A commit that finds it set makes no system call.
  const bool wake = garbage() && header.backlog.load(std::memory_order_relaxed) == 0;
  if (wake) header.backlog.store(1, std::memory_order_release);
  impl_->lock.release();
  if (wake && impl_->slot != kNoSlot) futex_wake(header.backlog);
}

bool Arbiter::garbage() const {
  const Header& header = impl_->space.header();
  return header.retained_head.load(std::memory_order_relaxed) != 0 ||
         header.dead_head.load(std::memory_order_relaxed) != 0;
}

// What a dead owner may have left: a half-done step, versions assigned that never came to be, and
// a slot it was working on. All of it may be done again if we die here, too.
void Arbiter::Impl::repair() {
  Header& header = space.writable();
  tables.journal.repair();
  const std::uint64_t clock = header.clock.load(std::memory_order_acquire);
  const std::uint32_t slots =
      std::min(header.slots_high.load(std::memory_order_relaxed), kMaxSlots);
  for (std::uint32_t i = 0; i < slots; ++i) {
    Word& assigned = header.slots[i].assigned;
    if (assigned.load(std::memory_order_relaxed) > clock) {
      assigned.store(0, std::memory_order_release);
    }
  }
  const std::uint32_t working = header.working_slot.load(std::memory_order_relaxed);
  if (working != 0 && working <= kMaxSlots) {
    const std::uint32_t other = working - 1;
    HalfWord& deaths = header.slots[other].deaths;
    if (waits(other) && committed_unanswered(other) == 0) {
      deaths.store(deaths.load(std::memory_order_relaxed) + 1, std::memory_order_release);
      // A delta that kills whoever works on it must not kill every combiner in turn.
      if (deaths.load(std::memory_order_relaxed) >= 2) answer(other, {Outcome::kPoison});
    }
    header.working_slot.store(0, std::memory_order_release);
  }
  // It may have committed, even answered, and not told all those who wait for it.
  waiters.wake_all();
  header.repairs.store(header.repairs.load(std::memory_order_relaxed) + 1,
                       std::memory_order_relaxed);
}

// The version under which the slot's present request has been committed by an owner that died
// before it answered; 0: it has not. Only the lock owner may judge this: an assigned version above
// the clock may yet be undone and given to another delta.
std::uint64_t Arbiter::Impl::committed_unanswered(std::uint32_t other) const {
  const Header& header = space.header();
  const SlotRecord& record = header.slots[other];
  const std::uint64_t assigned = record.assigned.load(std::memory_order_acquire);
  const bool current = record.assigned_request.load(std::memory_order_acquire) ==
                       space.desk(other).request.load(std::memory_order_acquire);
  return current && assigned <= header.clock.load(std::memory_order_acquire) ? assigned : 0;
}

bool Arbiter::Impl::waits(std::uint32_t other) const {
  const std::uint64_t request = space.desk(other).request.load(std::memory_order_seq_cst);
  return request != space.header().slots[other].answer.load(std::memory_order_relaxed) >> 8;
}

void Arbiter::Impl::answer(std::uint32_t other, Decision decision) {
  SlotRecord& record = space.writable().slots[other];
  Desk& desk = space.desk(other);
  record.answer_version.store(decision.version, std::memory_order_relaxed);
  record.answer_index.store(decision.index, std::memory_order_relaxed);
  record.deaths.store(0, std::memory_order_relaxed);
  // seq_cst with the worker's `sleeping`: either it sees the answer before it sleeps, or we see
  // that it may be asleep.
  record.answer.store(
      pack_answer(desk.request.load(std::memory_order_relaxed), decision.outcome),
      std::memory_order_seq_cst);
  record.assigned.store(0, std::memory_order_release);
  if (desk.sleeping.load(std::memory_order_seq_cst) != 0) futex_wake(low_half(record.answer));
}

// A turn that has run out or whose holder is gone ends here: nobody waits for the dead.
bool Arbiter::Impl::blocked_by_turn(std::uint32_t other) {
  Header& header = space.writable();
  const std::uint32_t holder = header.turn_slot.load(std::memory_order_relaxed);
  if (holder == 0) return false;
  const bool ours = holder == other + 1;
  if (!ours && monotonic_ns() < header.turn_until_ns.load(std::memory_order_relaxed)) return true;
  header.turn_slot.store(0, std::memory_order_release);
  return false;
}

void Arbiter::Impl::serve(std::uint32_t other) {
  Header& header = space.writable();
  SlotRecord& record = header.slots[other];
  if (const std::uint64_t version = committed_unanswered(other); version != 0) {
    answer(other, {Outcome::kCommitted, version});
    return;
  }
  if (record.state.load(std::memory_order_relaxed) !=
      static_cast<std::uint32_t>(SlotState::kAdmitted)) {
    return;
  }
  header.working_slot.store(other + 1, std::memory_order_release);
  if (blocked_by_turn(other)) {
    header.working_slot.store(0, std::memory_order_release);
    // It goes on waiting; whoever has the turn looks at it right after his own.
    header.waiting[other / 64].fetch_or(1ull << (other % 64), std::memory_order_seq_cst);
    return;
  }
  const Decision decision = committer.decide(other);
  answer(other, decision);
  header.working_slot.store(0, std::memory_order_release);
  if (decision.outcome == Outcome::kCommitted) {
    ++commits_since_reclaim;
    if (waiters.any()) waiters.notify(decision.version);
    const std::uint64_t keys = header.key_count.load(std::memory_order_relaxed);
    if (Index::wants_growth(header, keys)) {
      tables.journal.begin(kNoVersion);
      tables.index.double_buckets(keys);
      tables.journal.end();
    }
  }
  if (other != slot) ++combined;
}

std::uint32_t Arbiter::drain(std::uint32_t deltas_max) {
  Header& header = impl_->space.writable();
  std::uint32_t served = 0;
  if (impl_->slot != kNoSlot && impl_->waits(impl_->slot)) {
    impl_->serve(impl_->slot);
    ++served;
  }
  if (impl_->slot == kNoSlot) {
    const std::uint32_t slots =
        std::min(header.slots_high.load(std::memory_order_relaxed), kMaxSlots);
    for (std::uint32_t i = 0; i < slots && served < deltas_max; ++i) {
      if (!impl_->waits(i)) continue;
      impl_->serve(i);
      ++served;
    }
    return served;
  }
  const std::uint32_t groups = waiting_groups(header);
  for (std::uint32_t group = 0; group < groups; ++group) {
    Word& word = header.waiting[group];
    if (word.load(std::memory_order_relaxed) == 0) continue;
    // Cleared before the requests are read: who sets its bit after this finds it set at rescan.
    std::uint64_t bits = word.exchange(0, std::memory_order_seq_cst);
    for (; bits != 0; bits &= bits - 1) {
      const auto other = group * 64 + static_cast<std::uint32_t>(__builtin_ctzll(bits));
      if (served >= deltas_max) {
        word.fetch_or(bits, std::memory_order_seq_cst);  // left for the next holder
        break;
      }
      if (!impl_->waits(other)) continue;
      impl_->serve(other);
      ++served;
    }
  }
  return served;
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
  impl_->waiters.remove_all_of(gone);
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
        const auto* cell = reinterpret_cast<const CellHeader*>(
            space.writable_base() + tables.extents.offset_of(sweep_at));
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

bool Arbiter::collect_cells(std::uint8_t cell_class, std::vector<std::uint32_t>& units) {
  impl_->tables.journal.begin(kNoVersion);
  const bool found = impl_->tables.cells.collect(impl_->slot, cell_class, units);
  impl_->tables.journal.end();
  return found;
}

bool Arbiter::prelink(Link node, bool* good) {
  const Committer::Prelinked done = impl_->committer.prelink(impl_->slot, node);
  *good = done != Committer::Prelinked::kBad;
  return done == Committer::Prelinked::kMore;
}

bool Arbiter::abandon_prelinked() { return impl_->committer.bury_nursery(impl_->slot); }

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

bool Arbiter::claim_turn(std::uint64_t nanoseconds) {
  Header& header = impl_->space.writable();
  // Seen from another slot: true while somebody else's turn lasts, and ends one that is over.
  const std::uint32_t holder = header.turn_slot.load(std::memory_order_relaxed);
  if (holder != impl_->slot + 1 && impl_->blocked_by_turn(impl_->slot)) return false;
  header.turn_until_ns.store(monotonic_ns() + nanoseconds, std::memory_order_relaxed);
  header.turn_slot.store(impl_->slot + 1, std::memory_order_release);
  header.turns.store(header.turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return true;
}

bool Arbiter::turn_elsewhere() const {
  const std::uint32_t holder =
      impl_->space.header().turn_slot.load(std::memory_order_relaxed);
  return holder != 0 && holder != impl_->slot + 1;
}

std::optional<std::uint32_t> Arbiter::add_waiter(std::span<const std::uint64_t> interests) {
  return impl_->waiters.add(impl_->slot, interests);
}

bool Arbiter::rearm_waiter(std::uint32_t waiter, std::span<const std::uint64_t> interests) {
  return impl_->waiters.rearm(waiter, impl_->slot, interests);
}

void Arbiter::remove_waiter(std::uint32_t waiter) { impl_->waiters.remove(waiter, impl_->slot); }

bool Arbiter::anyone_waiting() const {
  const Header& header = impl_->space.header();
  const std::uint32_t groups = waiting_groups(header);
  for (std::uint32_t group = 0; group < groups; ++group) {
    if (header.waiting[group].load(std::memory_order_seq_cst) != 0) return true;
  }
  return false;
}

Arbiter::Holder Arbiter::holder() const {
  const Header& header = impl_->space.header();
  Holder holder;
  holder.thread_id = impl_->lock.owner_thread();
  holder.slot = header.lock_slot.load(std::memory_order_relaxed);
  holder.sequence = header.lock_sequence.load(std::memory_order_relaxed);
  return holder;
}

bool Arbiter::wait_for_backlog(std::uint64_t timeout_ns) const {
  const HalfWord& backlog = impl_->space.header().backlog;
  if (backlog.load(std::memory_order_acquire) == 0) {
    return futex_wait(backlog, 0, timeout_ns);
  }
  // What is left is pinned or coming in steadily; nothing tells when a pin goes.
  return futex_wait(backlog, 1, std::min(timeout_ns, kPinnedPaceNs));
}

std::uint64_t Arbiter::combined() const { return impl_->combined; }

}  // namespace theus::shm
