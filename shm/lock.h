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

// Who holds the lock and how far it has come, for finding a holder that is stuck. Read without the
// lock: each field is true of some moment, and whoever judges by them looks many times.
struct LockHolder {
  std::uint32_t thread_id = 0;   // 0: nobody
  std::uint32_t slot = kNoSlot;  // kNoSlot: the coordinator
  std::uint64_t sequence = 0;    // differs from one acquisition to the next
  // A holder that gets on moves one of these: the journal's count with each word it changes, the
  // clock with each commit.
  std::uint64_t journalled = 0;
  std::uint64_t clock = 0;

  bool operator==(const LockHolder&) const = default;
};
LockHolder lock_holder(const Header& header);

class ArbitrationLock {
 public:
  ArbitrationLock(const Space& space, std::uint32_t slot) : space_(space), slot_(slot) {}

  // After kOwnerDied: repair, then call consistent().
  Acquired try_acquire();
  Acquired acquire_for(std::uint64_t nanoseconds);
  void consistent();
  void release();

 private:
  Acquired acquired(int result);

  const Space& space_;
  std::uint32_t slot_;
};

}  // namespace theus::shm
