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
    outcome->admitted[i] = place(applicants_[i]);
  }
  outcome->admissions = count;
  if (reclaiming_) {
    outcome->reclaimed_all = !arbiter_.reclaim(kRecordsPerHold);
  }
  pool_.work(shm::monotonic_ns());
}

std::optional<shm::Tenancy> Janitor::place(const Applicant& applicant) {
  const auto& slots = space_.header().slots;
  if (applicant.copy_of) {
    const shm::SlotRecord& from = slots[applicant.copy_of->slot];
    // Taken back meanwhile: it holds the pins of nobody, or of somebody else.
    if (from.admitted_sequence.load(std::memory_order_relaxed) != applicant.copy_of->admission ||
        from.state.load(std::memory_order_relaxed) !=
            static_cast<std::uint32_t>(shm::SlotState::kSpare)) {
      return std::nullopt;
    }
  }
  const auto slot = applicant.spare ? arbiter_.lease_spare()
                                    : arbiter_.admit(applicant.pid, applicant.start_time);
  if (!slot) {
    return std::nullopt;
  }
  const shm::Tenancy tenancy{
      *slot, slots[*slot].admitted_sequence.load(std::memory_order_relaxed)};
  if (applicant.copy_of) {
    arbiter_.copy_pins(applicant.copy_of->slot, tenancy.slot, tenancy.admission);
  }
  return tenancy;
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
    callbacks_.admitted(applicant, outcome.admitted[i]);
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
