#include "coordinator/bell.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "shm/arbiter.h"
#include "shm/futex.h"

namespace theus::coordinator {

Bell::Bell(const shm::Space& space)
    : space_(space), fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!fd_) {
    throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  thread_ = std::thread([this] { run(); });
}

Bell::~Bell() {
  ending_.store(true);
  listen();
  shm::futex_wake(space_.writable().backlog);  // else it ends at its next look
  thread_.join();
}

void Bell::answer() {
  std::uint64_t rings = 0;
  // Nothing to read is fine: then it was answered already.
  [[maybe_unused]] const ssize_t got = ::read(fd_.get(), &rings, sizeof(rings));
}

void Bell::listen() {
  listening_.store(true);
  listening_.notify_one();
}

void Bell::run() {
  const shm::Arbiter ear(space_, shm::kNoSlot);
  while (!ending_.load()) {
    ear.wait_for_backlog(kPaceNs);
    // Whether it timed out does not matter: a backlog of pinned versions is looked at now and then,
    // since nobody tells when a pin goes.
    if (space_.header().backlog.load(std::memory_order_acquire) == 0) {
      continue;
    }
    listening_.store(false);
    const std::uint64_t once = 1;
    [[maybe_unused]] const ssize_t put = ::write(fd_.get(), &once, sizeof(once));
    if (!ending_.load()) {
      listening_.wait(false);
    }
  }
}

}  // namespace theus::coordinator
