#include "worker/retry.h"

#include <algorithm>

namespace theus::worker {
namespace {

// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
std::uint64_t next_random(std::uint64_t* state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545F4914F6CDD1Dull;
}

}  // namespace

Retry::Retry(std::uint32_t retries_max, std::uint64_t seed)
    : retries_max_(retries_max), random_(seed | 1) {}

bool Retry::again(std::uint64_t* pause_ns) {
  std::uint32_t repetitions = executions_ - 1;
  if (repetitions >= retries_max_) return false;
  ++executions_;
  *pause_ns = 0;
  if (repetitions > 0) {
    std::uint32_t doublings = std::min(repetitions - 1, 20u);
    std::uint64_t bound = std::min(kFirstPauseNsMax << doublings, kPauseNsMax);
    *pause_ns = next_random(&random_) % bound;
  }
  return true;
}

}  // namespace theus::worker
