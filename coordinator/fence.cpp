#include "coordinator/fence.h"

#include <signal.h>

#include "shm/process.h"

namespace theus::coordinator {

Fence::Fence(EventLoop& loop, const shm::Arbiter& arbiter, Census& census, spdlog::logger& log)
    : arbiter_(arbiter), census_(census), log_(log), timer_(loop, [this] { look(); }) {}

void Fence::suspect() {
  if (looking_) {
    return;
  }
  suspect_ = arbiter_.holder();
  looks_ = 0;
  looks_stopped_ = 0;
  looking_ = true;
  timer_.every(kLookIntervalNs);
}

void Fence::report(std::uint64_t sequence) {
  const shm::Arbiter::Holder holder = arbiter_.holder();
  if (holder.thread_id != 0 && holder.sequence == sequence) {
    suspect();
  }
}

void Fence::clear() {
  if (looking_) {
    looking_ = false;
    timer_.stop();
  }
  helpless_ = false;
}

void Fence::look() {
  const shm::Arbiter::Holder holder = arbiter_.holder();
  if (holder.thread_id == 0 || holder.thread_id != suspect_.thread_id ||
      holder.sequence != suspect_.sequence) {
    clear();
    return;
  }
  ++looks_;
  char state = '?';
  const Member* member = find(holder, &state);
  const bool stopped = member != nullptr && (state == 'T' || state == 't');
  looks_stopped_ = stopped ? looks_stopped_ + 1 : 0;
  if (looks_stopped_ >= kLooksStopped || looks_ >= kLooksOther) {
    strike(holder);
    looks_ = 0;
    looks_stopped_ = 0;
  }
}

// The process whose thread the lock word names: that of the slot noted with the lock, or, since an
// owner may have been stopped before it noted its slot, any other.
Member* Fence::find(const shm::Arbiter::Holder& holder, char* state) {
  const auto has_thread = [&](const Member& member) {
    const auto found = shm::thread_state(member.entry.pid, holder.thread_id);
    *state = found.value_or('?');
    return found.has_value();
  };
  Member* noted = census_.find(holder.slot);
  if (noted != nullptr && has_thread(*noted)) {
    return noted;
  }
  return census_.find_if(has_thread);
}

void Fence::strike(const shm::Arbiter::Holder& holder) {
  char state = '?';
  const Member* member = find(holder, &state);
  if (member == nullptr) {
    if (!helpless_) {
      helpless_ = true;
      log_.error("the arbitration lock is stuck at {}, and its owner, thread {}, belongs to no "
                 "admitted process: nothing can be done about it here",
                 holder.sequence, holder.thread_id);
    }
    return;
  }
  if (shm::send_signal(member->entry.pidfd.get(), SIGKILL)) {
    log_.warn("killed process {} (slot {}): its thread {} held the arbitration lock without "
              "getting on (state {}, sequence {})",
              member->entry.pid, member->entry.tenancy.slot, holder.thread_id, state,
              holder.sequence);
  } else {
    log_.error("cannot kill process {} (slot {}), which holds the arbitration lock",
               member->entry.pid, member->entry.tenancy.slot);
  }
}

}  // namespace theus::coordinator
