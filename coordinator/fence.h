// The fence: finds a lock holder that is stuck, and kills it.
//
// Looks are made by this process's own running clock, one per timer event, never by time that has
// passed: stopping everything and going on must not kill the healthy. A holder that is stopped or
// traced is stuck after kLooksStopped; one that only makes no progress (it may be healthy, on an
// overloaded machine) after kLooksOther.
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>

#include "coordinator/census.h"
#include "coordinator/event_loop.h"
#include "shm/arbiter.h"

namespace theus::coordinator {

class Fence {
 public:
  static constexpr std::uint32_t kLooksStopped = 5;
  static constexpr std::uint32_t kLooksOther = 100;
  static constexpr std::uint64_t kLookIntervalNs = 10'000'000;

  Fence(EventLoop& loop, const shm::Arbiter& arbiter, Census& census, spdlog::logger& log);

  // The lock could not be had for a while: start looking, unless that goes on already.
  void suspect();
  // A worker says that the lock stands at this sequence number.
  void report(std::uint64_t sequence);
  void clear();  // the lock could be had
  bool looking() const { return looking_; }

 private:
  void look();
  void strike(const shm::Arbiter::Holder& holder);
  Member* find(const shm::Arbiter::Holder& holder, char* state);

  const shm::Arbiter& arbiter_;
  Census& census_;
  spdlog::logger& log_;
  Timer timer_;
  bool looking_ = false;
  bool helpless_ = false;  // said already that there is nobody to fence
  shm::Arbiter::Holder suspect_;
  std::uint32_t looks_ = 0;
  std::uint32_t looks_stopped_ = 0;  // the last so many found it stopped
};

}  // namespace theus::coordinator
