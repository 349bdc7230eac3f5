// Sleeping on and waking from a word of shared memory (Linux futex, process-shared).
#pragma once

#include <cstdint>

#include "shm/layout.h"

namespace theus::shm {

// Sleeps while `word` holds `expected`, at most `nanoseconds`. Returns early on a wake-up, a signal
// or a changed word: the caller looks again. False: the time is up.
bool futex_wait(const HalfWord& word, std::uint32_t expected, std::uint64_t nanoseconds);

// Wakes everybody who sleeps on `word`. Returns how many.
int futex_wake(HalfWord& word);

// The half of `word` that holds its low 32 bits, to sleep on (little-endian, as x86-64 and arm64).
inline HalfWord& low_half(Word& word) { return reinterpret_cast<HalfWord&>(word); }
inline const HalfWord& low_half(const Word& word) {
  return reinterpret_cast<const HalfWord&>(word);
}

}  // namespace theus::shm
