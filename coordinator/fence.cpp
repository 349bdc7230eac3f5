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
  suspicion_.begin(arbiter_.holder());
  looking_ = true;
  timer_.every(kLookIntervalNs);
}

void Fence::report(std::uint64_t sequence) {
  const shm::LockHolder holder = arbiter_.holder();
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
  const shm::LockHolder holder = arbiter_.holder();
  char state = '?';
  const Member* member = holder.thread_id != 0 ? find(holder, &state) : nullptr;
  const bool stopped = member != nullptr && (state == 'T' || state == 't');
  switch (suspicion_.look(holder, stopped)) {
    case Suspicion::Verdict::kOver:
      clear();
      break;
    case Suspicion::Verdict::kStuck:
      strike(holder, member, state);
      break;
    case Suspicion::Verdict::kWait:
      break;
  }
}

// The process whose thread the lock word names: that of the slot noted with the lock, or, since an
// owner may have been stopped before it noted its slot, any other.
Member* Fence::find(const shm::LockHolder& holder, char* state) {
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

void Fence::strike(const shm::LockHolder& holder, const Member* member, char state) {
  if (member == nullptr) {
    if (!helpless_) {
      helpless_ = true;
      log_.error(
          "the arbitration lock is stuck at {}, and its owner, thread {}, belongs to no "
          "admitted process: nothing can be done about it here",
          holder.sequence, holder.thread_id);
    }
    return;
  }
  if (shm::send_signal(member->entry.pidfd.get(), SIGKILL)) {
    log_.warn(
        "killed process {} (slot {}): its thread {} held the arbitration lock without "
        "getting on (state {}, sequence {})",
        member->entry.pid, member->entry.tenancy.slot, holder.thread_id, state, holder.sequence);
  } else {
    log_.error("cannot kill process {} (slot {}), which holds the arbitration lock",
               member->entry.pid, member->entry.tenancy.slot);
  }
}

}  // namespace theus::coordinator
