// The fence: finds a worker that is stuck with the arbitration lock (suspicion.h says what that
// is), and kills it.
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>

#include "coordinator/census.h"
#include "coordinator/event_loop.h"
#include "coordinator/suspicion.h"
#include "shm/arbiter.h"

namespace theus::coordinator {

class Fence {
 public:
  Fence(EventLoop& loop, const shm::Arbiter& arbiter, Census& census, spdlog::logger& log);

  // The lock could not be had for a while: start looking, unless that goes on already.
  void suspect();
  // A worker says that the lock stands at this sequence number.
  void report(std::uint64_t sequence);
  void clear();  // the lock could be had
  bool looking() const { return looking_; }

 private:
  void look();
  void strike(const shm::LockHolder& holder, const Member* member, char state);
  Member* find(const shm::LockHolder& holder, char* state);

  const shm::Arbiter& arbiter_;
  Census& census_;
  spdlog::logger& log_;
  Timer timer_;
  bool looking_ = false;
  bool helpless_ = false;  // said already that there is nobody to fence
  Suspicion suspicion_;
};

}  // namespace theus::coordinator
