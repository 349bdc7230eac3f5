// The arbitration lock: a robust, process-shared mutex in the data segment.
//
// When its owner dies the kernel hands it to the next one with EOWNERDEAD; that one repairs before
// anything else, then marks the mutex consistent (unlocking without that would make it unusable
// for ever). The mutex is used through the writable mapping, which stays for the process's life.
#pragma once

#include <cstdint>

#include "shm/space.h"

namespace theus::shm {

enum class Acquired : std::uint8_t { kYes, kOwnerDied, kNo };

class ArbitrationLock {
 public:
  ArbitrationLock(const Space& space, std::uint32_t slot) : space_(space), slot_(slot) {}

  // After kOwnerDied: repair, then call consistent().
  Acquired try_acquire();
  Acquired acquire_for(std::uint64_t nanoseconds);
  void consistent();
  void release();

  // Thread id in the lock word, 0: free. No lock needed; may be outdated at once.
  std::uint32_t owner_thread() const;

 private:
  Acquired acquired(int result);

  const Space& space_;
  std::uint32_t slot_;
};

}  // namespace theus::shm
