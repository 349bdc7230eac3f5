#include "coordinator/janitor.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "shm/control_channel.h"

namespace theus::coordinator {
namespace {

// Bounds of one hold: tens of microseconds.
constexpr std::uint32_t kDeltasPerHold = 64;
constexpr std::uint32_t kRecordsPerHold = 256;
constexpr std::size_t kAdmissionsPerHold = 8;

}  // namespace

struct Janitor::Outcome {
  bool survey = false;
  std::optional<shm::Tenancy> evicted;
  std::array<std::optional<shm::Tenancy>, kAdmissionsPerHold> admitted;
  std::size_t admissions = 0;
  bool reclaimed_all = false;
};

Janitor::Janitor(const shm::Space& space, shm::Arbiter& arbiter, Pool& pool, Callbacks callbacks)
    : space_(space), arbiter_(arbiter), pool_(pool), callbacks_(std::move(callbacks)) {
  occupied_.reserve(shm::kMaxSlots);
}

void Janitor::evict(shm::Tenancy tenancy) {
  if (std::find(evictions_.begin(), evictions_.end(), tenancy) == evictions_.end()) {
    evictions_.push_back(tenancy);
  }
}

bool Janitor::hold(std::uint64_t patience_ns) {
  const bool got = patience_ns == 0 ? arbiter_.try_lock() : arbiter_.lock_for(patience_ns);
  if (!got) {
    return false;
  }
  Outcome outcome;
  work(&outcome);
  arbiter_.unlock();
  wanted_ = false;
  tell(outcome);
  return true;
}

void Janitor::work(Outcome* outcome) {
  arbiter_.drain(kDeltasPerHold);
  if (!surveyed_) {
    // Alone in its hold: what it finds must not be changed by what follows it.
    survey();
    outcome->survey = true;
    return;
  }
  if (!evictions_.empty()) {
    const shm::Tenancy tenancy = evictions_.front();
    const shm::SlotRecord& record = space_.header().slots[tenancy.slot];
    const bool its_own =
        record.admitted_sequence.load(std::memory_order_relaxed) == tenancy.admission;
    if (!its_own || arbiter_.evict(tenancy.slot)) {
      outcome->evicted = tenancy;
    }
  }
  const std::size_t count = std::min(kAdmissionsPerHold, applicants_.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Applicant& applicant = applicants_[i];
    if (const auto slot = arbiter_.admit(applicant.pid, applicant.start_time)) {
      const shm::SlotRecord& record = space_.header().slots[*slot];
      outcome->admitted[i] =
          shm::Tenancy{*slot, record.admitted_sequence.load(std::memory_order_relaxed)};
    }
  }
  outcome->admissions = count;
  if (reclaiming_) {
    outcome->reclaimed_all = !arbiter_.reclaim(kRecordsPerHold);
  }
  pool_.work(shm::monotonic_ns());
}

// Also writes down who the coordinator is now: like everything in the header, under the lock.
void Janitor::survey() {
  shm::Header& header = space_.writable();
  header.coordinator_pid.store(static_cast<std::uint32_t>(::getpid()), std::memory_order_release);
  const std::uint32_t high =
      std::min(header.slots_high.load(std::memory_order_relaxed), shm::kMaxSlots);
  for (std::uint32_t slot = 0; slot < high; ++slot) {
    const shm::SlotRecord& record = header.slots[slot];
    const auto state = static_cast<shm::SlotState>(record.state.load(std::memory_order_relaxed));
    if (state != shm::SlotState::kFree) {
      occupied_.push_back({{slot, record.admitted_sequence.load(std::memory_order_relaxed)},
                           state == shm::SlotState::kLeaving});
    }
  }
  surveyed_ = true;
}

void Janitor::tell(const Outcome& outcome) {
  // Eviction before admissions: an admission may have been given the slot.
  if (outcome.evicted) {
    evictions_.pop_front();
    callbacks_.evicted(*outcome.evicted);
  }
  for (std::size_t i = 0; i < outcome.admissions; ++i) {
    const Applicant applicant = applicants_.front();
    applicants_.pop_front();
    callbacks_.admitted(applicant.guest, outcome.admitted[i]);
  }
  if (outcome.survey) {
    callbacks_.surveyed(occupied_);
  }
  if (outcome.reclaimed_all) {
    reclaiming_ = false;
    callbacks_.idle();
  }
  pool_.between();
}

}  // namespace theus::coordinator
