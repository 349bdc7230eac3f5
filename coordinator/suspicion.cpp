#include "coordinator/suspicion.h"

namespace theus::coordinator {

void Suspicion::begin(const shm::LockHolder& holder) {
  last_ = holder;
  looks_ = looks_stopped_ = 0;
}

Suspicion::Verdict Suspicion::look(const shm::LockHolder& now, bool stopped) {
  if (now.thread_id == 0 || now.thread_id != last_.thread_id || now.sequence != last_.sequence) {
    return Verdict::kOver;
  }
  if (now != last_) {
    begin(now);
    return Verdict::kWait;
  }
  ++looks_;
  looks_stopped_ = stopped ? looks_stopped_ + 1 : 0;
  if (looks_stopped_ < limits_.looks_stopped && looks_ < limits_.looks_other) {
    return Verdict::kWait;
  }
  begin(now);
  return Verdict::kStuck;
}

}  // namespace theus::coordinator
