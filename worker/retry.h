// How often a transaction that met a conflict is run again, and how long it pauses in between.
//
// Pauses double from attempt to attempt up to a bound, and are drawn at random below it ("full
// jitter"), so that two losers of one race do not meet again in step. The first repetition comes at
// once: the winner is done by then.
#pragma once

#include <cstdint>

namespace theus::worker {

inline constexpr std::uint64_t kFirstPauseNsMax = 2'000;
inline constexpr std::uint64_t kPauseNsMax = 1'000'000;

// Value type. Not thread-safe: one per loop.
class Retry {
 public:
  // At most `retries_max` repetitions after the first execution. `seed`: anything that differs
  // between processes and threads.
  Retry(std::uint32_t retries_max, std::uint64_t seed);

  // After a conflict: true if there is to be another execution, after *pause_ns nanoseconds.
  bool again(std::uint64_t* pause_ns);

  // Executions that have been allowed so far, the first included.
  std::uint32_t executions() const { return executions_; }

 private:
  std::uint32_t retries_max_;
  std::uint32_t executions_ = 1;
  std::uint64_t random_;
};

}  // namespace theus::worker
