#include "coordinator/child_watch.h"

#include <string.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>

#include "shm/control_channel.h"
#include "shm/process.h"

namespace theus::coordinator {
namespace {

// Ctrl-Z stops the supervisor as well, and is one look at most.
constexpr std::uint32_t kLooksStopped = 5;
constexpr std::size_t kMappedBytes = offsetof(shm::Header, slots);

bool is_stopped(char state) { return state == 'T' || state == 't'; }

}  // namespace

ChildWatch::~ChildWatch() {
  if (header_ != nullptr) {
    ::munmap(const_cast<shm::Header*>(header_), kMappedBytes);
  }
}

void ChildWatch::begin(pid_t child) {
  child_ = child;
  stopped_ = alarmed_ = suspecting_ = false;
}

void ChildWatch::stopped() {
  stopped_ = true;
  looks_stopped_ = 0;
}

void ChildWatch::alarm() { alarmed_ = header() != nullptr; }

std::uint64_t ChildWatch::next_look_ns() const {
  return stopped_ || alarmed_ ? next_look_ns_ : ~std::uint64_t{0};
}

bool ChildWatch::look() {
  const std::uint64_t now = shm::monotonic_ns();
  if (now < next_look_ns()) {
    return false;
  }
  next_look_ns_ = now + kLookIntervalNs;
  // Both in any case: each counts its looks.
  const bool stays_stopped = stopped_ && look_at_state();
  const bool keeps_lock = alarmed_ && look_at_lock();
  return stays_stopped || keeps_lock;
}

bool ChildWatch::look_at_state() {
  const auto pid = static_cast<std::uint32_t>(child_);
  stopped_ = shm::thread_state(pid, pid) == 'T';
  if (!stopped_ || ++looks_stopped_ <= kLooksStopped) {
    return false;
  }
  log_.warn("process {} is stopped, perhaps with the arbitration lock held: it is replaced",
            child_);
  stopped_ = false;
  return true;
}

bool ChildWatch::look_at_lock() {
  const shm::LockHolder holder = shm::lock_holder(*header());
  const auto state = holder.thread_id == 0
                         ? std::nullopt
                         : shm::thread_state(static_cast<std::uint32_t>(child_), holder.thread_id);
  if (!state) {
    alarmed_ = suspecting_ = false;  // not the child's: the child looks after the others
    return false;
  }
  if (!suspecting_) {
    suspecting_ = true;
    suspicion_.begin(holder);
    return false;
  }
  switch (suspicion_.look(holder, is_stopped(*state))) {
    case Suspicion::Verdict::kWait:
      return false;
    case Suspicion::Verdict::kOver:
      alarmed_ = suspecting_ = false;  // whoever still waits raises the alarm again
      return false;
    case Suspicion::Verdict::kStuck:
      break;
  }
  log_.warn(
      "process {} held the arbitration lock without getting on (state {}, sequence {}): it is "
      "replaced",
      child_, *state, holder.sequence);
  return true;
}

const shm::Header* ChildWatch::header() {
  if (header_ == nullptr) {
    void* mapped = ::mmap(nullptr, kMappedBytes, PROT_READ, MAP_SHARED, data_readable_, 0);
    if (mapped == MAP_FAILED) {
      log_.error("cannot look at the arbitration lock: {}", ::strerror(errno));
      return nullptr;
    }
    header_ = static_cast<const shm::Header*>(mapped);
  }
  return header_;
}

}  // namespace theus::coordinator
