#include "shm/lock.h"

#include <pthread.h>
#include <time.h>

#include <cerrno>

namespace theus::shm {

Acquired ArbitrationLock::acquired(int result) {
  if (result != 0 && result != EOWNERDEAD) return Acquired::kNo;
  Header& header = space_.writable();
  // For whoever looks for a stuck holder: a new number at each acquisition, and whose it is.
  header.lock_sequence.store(header.lock_sequence.load(std::memory_order_relaxed) + 1,
                             std::memory_order_relaxed);
  header.lock_slot.store(slot_, std::memory_order_relaxed);
  return result == EOWNERDEAD ? Acquired::kOwnerDied : Acquired::kYes;
}

Acquired ArbitrationLock::try_acquire() {
  return acquired(pthread_mutex_trylock(&space_.writable().lock));
}

Acquired ArbitrationLock::acquire_for(std::uint64_t nanoseconds) {
#if defined(__SANITIZE_THREAD__)
  // GCC 12's ThreadSanitizer does not know pthread_mutex_clocklock.
  constexpr clockid_t kClock = CLOCK_REALTIME;
#else
  constexpr clockid_t kClock = CLOCK_MONOTONIC;
#endif
  timespec until{};
  clock_gettime(kClock, &until);
  const std::uint64_t total = static_cast<std::uint64_t>(until.tv_nsec) + nanoseconds;
  until.tv_sec += static_cast<time_t>(total / 1000000000ull);
  until.tv_nsec = static_cast<long>(total % 1000000000ull);
#if defined(__SANITIZE_THREAD__)
  return acquired(pthread_mutex_timedlock(&space_.writable().lock, &until));
#else
  return acquired(pthread_mutex_clocklock(&space_.writable().lock, kClock, &until));
#endif
}

void ArbitrationLock::consistent() { pthread_mutex_consistent(&space_.writable().lock); }

void ArbitrationLock::release() { pthread_mutex_unlock(&space_.writable().lock); }

LockHolder lock_holder(const Header& header) {
  LockHolder holder;
  // The first word of glibc's mutex is the kernel's robust-futex word: the owner's thread id in
  // the low 30 bits. The layout stamp has made sure that it is glibc's.
  const auto* word = reinterpret_cast<const HalfWord*>(&header.lock);
  holder.thread_id = word->load(std::memory_order_relaxed) & 0x3FFFFFFFu;
  holder.slot = header.lock_slot.load(std::memory_order_relaxed);
  holder.sequence = header.lock_sequence.load(std::memory_order_relaxed);
  holder.journalled = header.journal.count.load(std::memory_order_relaxed);
  holder.clock = header.clock.load(std::memory_order_relaxed);
  return holder;
}

}  // namespace theus::shm
