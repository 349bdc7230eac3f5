// Suspicion: when a holder of the arbitration lock counts as stuck.
//
// It is stuck when the same hold (lock_sequence) has changed nothing from one look to the next, so
// many looks in a row. Looks are made by a running observer, one per timer event, never by time
// that has passed: stopping everything and going on must not kill the healthy. A hold may be long:
// a delta of a million inserts takes a second, and moves the journal's count all the while.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>

#include "shm/lock.h"

namespace theus::coordinator {

inline constexpr std::uint64_t kLookIntervalNs = 10'000'000;

class Suspicion {
 public:
  struct Limits {
    std::uint32_t looks_stopped = 5;  // in a row that found its thread stopped or traced
    // A holder that is runnable but gets no processor on an overloaded machine is healthy, and
    // looks like this as well.
    std::uint32_t looks_other = 100;
  };
  Suspicion() : Suspicion(Limits{}) {}
  explicit Suspicion(Limits limits) : limits_(limits) {}

  void begin(const shm::LockHolder& holder);

  enum class Verdict : std::uint8_t {
    kOver,   // the lock is free, or has been since: nothing is suspected any more
    kWait,   // look again
    kStuck,  // said once; then the looks are counted anew
  };
  Verdict look(const shm::LockHolder& now, bool stopped);

 private:
  Limits limits_;
  shm::LockHolder last_;
  std::uint32_t looks_ = 0;
  std::uint32_t looks_stopped_ = 0;
};

}  // namespace theus::coordinator
