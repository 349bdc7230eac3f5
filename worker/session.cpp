#include "worker/session.h"

#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "worker/connection.h"
#include "worker/internals.h"

namespace theus::worker {

namespace {

constexpr std::uint64_t kLockPatienceNs = 10'000'000;
// An ordinary hold is over in microseconds: no reason to let other threads run.
constexpr std::uint64_t kBriefNs = 1'000'000;
// A stuck owner is removed by the coordinator within a few of these; without a coordinator nobody
// removes it.
constexpr int kLockTries = 3000;
constexpr int kTriesBeforeReport = 3;

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ull +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

ForkGuard::ForkGuard() {
  void* page =
      mmap(nullptr, shm::kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  if (madvise(page, shm::kPageBytes, MADV_WIPEONFORK) != 0) {
    const int error = errno;
    munmap(page, shm::kPageBytes);
    throw std::system_error(error, std::generic_category(), "madvise(MADV_WIPEONFORK)");
  }
  word_ = static_cast<volatile std::uint32_t*>(page);
  *word_ = kOwn;
}

ForkGuard::~ForkGuard() { munmap(const_cast<std::uint32_t*>(word_), shm::kPageBytes); }

Session::Internals::Internals(Attachment made, std::shared_ptr<const shm::Space> mapped)
    : attachment(std::move(made)),
      shared_space(std::move(mapped)),
      space(*shared_space),
      arbiter(space, attachment.slot),
      pins(space, attachment.slot),
      slot_record(&space.writable().slots[attachment.slot]),
      desk(&space.desk(attachment.slot)),
      stock(space, arbiter, [this](OnSignal on_signal) { lock(on_signal); }),
      shared_pins(shm::kPinsPerDesk),
      sequence(desk->request.load(std::memory_order_relaxed)),
      admission(slot_record->admitted_sequence.load(std::memory_order_relaxed)),
      inheritance(*this) {
  // The mappings stay; the descriptors would only be inherited by whoever execs.
  attachment.segments = shm::SegmentFds();
  // A predecessor that died in the middle may have left words here; a Cap'n Proto builder wants
  // zeroed memory.
  if (admission > 1) {
    std::memset(desk->submission, 0, shm::kSubmissionBytes);
  }
  desk->counters.attached_at_ns.store(monotonic_ns(), std::memory_order_relaxed);
  inheritance.begin();
}

Session::Internals::~Internals() {
  // In a child: only what it has inherited is its own to give back.
  const bool without_coordinator = attachment.control_fd < 0;
  inheritance.end();
  if (!without_coordinator || lost || fork_guard.forked()) return;
  // Tests without a coordinator: the slot is given back here.
  for (bool done = false; !done;) {
    lock(OnSignal::kGoOn);
    done = arbiter.evict(attachment.slot);
    arbiter.unlock();
  }
}

void Session::Internals::require_place() const {
  if (!lost) return;
  throw CoordinatorLost("this process has lost its place in '" + attachment.name +
                        "'; nothing was written: attach again");
}

std::uint32_t Session::Internals::take_pin(std::uint64_t* version, PinUser user) {
  require_place();
  const std::uint32_t snapshots = user == PinUser::kSnapshot ? 1 : 0;
  SharedPin& newest = shared_pins[newest_pin];
  if (newest.users > 0 && newest.version == space.header().clock.load(std::memory_order_acquire)) {
    ++newest.users;
    newest.snapshots += snapshots;
    *version = newest.version;
    return newest_pin;
  }
  std::uint32_t pin = 0;
  if (!pins.take(&pin, version)) {
    throw Error("this process holds " + std::to_string(shm::kPinsPerDesk) +
                " different versions open at once, which is the most it can; close snapshots and "
                "State objects that are no longer needed");
  }
  shared_pins[pin] = {*version, 1, snapshots};
  newest_pin = pin;
  return pin;
}

void Session::Internals::release_pin(std::uint32_t pin, PinUser user) {
  if (lost) return;
  if (user == PinUser::kSnapshot) --shared_pins[pin].snapshots;
  if (--shared_pins[pin].users == 0) pins.release(pin);
}

void Session::Internals::lock(OnSignal on_signal) {
  const auto may_give_up = [&] {
    if (on_signal == OnSignal::kGiveUp) require_place();
  };
  may_give_up();
  if (arbiter.try_lock()) return;
  for (int attempt = 0; attempt < kLockTries; ++attempt) {
    if (arbiter.lock_for(kBriefNs)) return;
    bool free = false;
    {
      Waiting waits(wait_hook);
      // Until it can be had, no more: with it in hand we would wait for the GIL, and everybody for
      // us.
      free = arbiter.lock_for(kLockPatienceNs);
      if (free) arbiter.unlock();
      if (on_signal == OnSignal::kGiveUp) waits.end();
    }
    may_give_up();
    if (!free && attempt >= kTriesBeforeReport) {
      report_stuck(attachment, arbiter.holder().sequence);
    }
  }
  throw CoordinatorLost(
      "the arbitration lock of '" + attachment.name +
      "' has been held for 30 s and no coordinator has removed its holder; nothing was written");
}

Session::Session(Attachment attachment, std::shared_ptr<const shm::Space> space)
    : internals_(std::make_unique<Internals>(std::move(attachment), std::move(space))) {}

namespace {
std::shared_ptr<const shm::Space> map_for_worker(const Attachment& attachment) {
  return std::make_shared<const shm::Space>(attachment.segments, shm::Access::kWorker);
}
}  // namespace

Session::Session(Attachment attachment) {
  auto space = map_for_worker(attachment);
  internals_ = std::make_unique<Internals>(std::move(attachment), std::move(space));
}
Session::~Session() = default;

void Session::set_wait_hook(WaitHook* hook) { internals_->wait_hook = hook; }

std::uint64_t Session::version() const {
  return internals_->space.header().clock.load(std::memory_order_acquire);
}
const std::string& Session::name() const { return internals_->attachment.name; }
std::uint32_t Session::slot() const { return internals_->attachment.slot; }
std::uint32_t Session::coordinator_pid() const {
  const std::uint32_t now =
      internals_->space.header().coordinator_pid.load(std::memory_order_relaxed);
  return now != 0 ? now : internals_->attachment.coordinator_pid;
}
std::uint32_t Session::supervisor_pid() const { return internals_->attachment.supervisor_pid; }
bool Session::forked() const { return internals_->fork_guard.forked(); }
bool Session::keeps_views() const { return internals_->fork_guard.keeps_views(); }
const shm::Space& Session::space() const { return internals_->space; }

std::uint32_t Session::pin_block(std::uint64_t block) {
  Internals& in = *internals_;
  if (!in.fork_guard.keeps_views()) {
    throw Error("this session belongs to the parent process; attach again after fork");
  }
  in.require_place();
  const std::lock_guard<std::mutex> guard(in.block_pin_mutex);
  std::uint32_t handle = 0;
  if (!in.free_block_pins.empty()) {
    handle = in.free_block_pins.back();
    in.free_block_pins.pop_back();
  } else if (in.block_pins_high < shm::kBlockPinsPerDesk) {
    handle = in.block_pins_high++;
    // Before the first use of the pin behind it: a scan that comes after the pin covers it.
    in.desk->block_pins_high.store(in.block_pins_high, std::memory_order_seq_cst);
  } else {
    throw Error("this process holds " + std::to_string(shm::kBlockPinsPerDesk) +
                " views of shared arrays at once, which is the most it can; release some, or copy "
                "them with theus.plain");
  }
  // seq_cst, and before the snapshot pin that covers the block is cleared: a scan reads the
  // snapshot pins first, then these (pins.h).
  in.desk->block_pins[handle].store(block, std::memory_order_seq_cst);
  return handle;
}

void Session::unpin_block(std::uint32_t handle) {
  Internals& in = *internals_;
  if (!in.fork_guard.keeps_views() || in.lost) return;  // the pin is somebody else's
  const std::lock_guard<std::mutex> guard(in.block_pin_mutex);
  in.release_block_pin(handle);
}

void Session::Internals::release_block_pin(std::uint32_t handle) {
  desk->block_pins[handle].store(0, std::memory_order_release);
  free_block_pins.push_back(handle);
}

Session::Stats Session::stats() const {
  const Internals& in = *internals_;
  const shm::Header& header = in.space.header();
  const shm::Counters& counters = in.desk->counters;
  Stats stats{};
  stats.version = version();
  stats.commits = counters.commits.load(std::memory_order_relaxed);
  stats.read_only = counters.read_only.load(std::memory_order_relaxed);
  stats.conflicts = counters.conflicts.load(std::memory_order_relaxed);
  stats.rollbacks = counters.rollbacks.load(std::memory_order_relaxed);
  stats.capacity_bytes = in.space.capacity_bytes();
  const std::uint64_t used = header.used_extents.load(std::memory_order_relaxed);
  stats.used_bytes = used * shm::kExtentBytes;
  // Without the reserve, which nothing can be written into.
  const std::uint64_t usable = header.reserve_at.load(std::memory_order_relaxed);
  stats.free_bytes = usable > used ? (usable - used) * shm::kExtentBytes : 0;
  stats.keys = header.key_count.load(std::memory_order_relaxed);
  stats.oldest_pin = stats.version;
  const std::uint32_t slots = header.slots_high.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < slots && i < shm::kMaxSlots; ++i) {
    if (header.slots[i].state.load(std::memory_order_relaxed) ==
        static_cast<std::uint32_t>(shm::SlotState::kAdmitted)) {
      ++stats.workers;
    }
    const shm::Desk& desk = in.space.desk_readable(i);
    const std::uint32_t high = desk.pins_high.load(std::memory_order_acquire);
    for (std::uint32_t p = 0; p < high && p < shm::kPinsPerDesk; ++p) {
      const std::uint64_t pin = desk.pins[p].load(std::memory_order_relaxed);
      if (pin != 0 && pin - 1 < stats.oldest_pin) stats.oldest_pin = pin - 1;
    }
  }
  return stats;
}

}  // namespace theus::worker
