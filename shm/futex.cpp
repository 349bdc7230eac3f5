#include "shm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

namespace theus::shm {

bool futex_wait(const HalfWord& word, std::uint32_t expected, std::uint64_t nanoseconds) {
  timespec timeout{static_cast<time_t>(nanoseconds / 1000000000ull),
                   static_cast<long>(nanoseconds % 1000000000ull)};
  const long result = syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
  return result == 0 || errno != ETIMEDOUT;
}

int futex_wake(HalfWord& word) {
  return static_cast<int>(syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0));
}

}  // namespace theus::shm
