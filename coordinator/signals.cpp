#include "coordinator/signals.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace theus::coordinator {

shm::OwnedFd open_signals(std::initializer_list<int> numbers) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : numbers) {
    ::sigaddset(&set, number);
  }
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    throw std::system_error(error, std::generic_category(), "pthread_sigmask");
  }
  shm::OwnedFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) {
    throw std::system_error(errno, std::generic_category(), "signalfd");
  }
  return fd;
}

int next_signal(const shm::OwnedFd& signals) {
  signalfd_siginfo info{};
  ssize_t got = -1;
  do {
    got = ::read(signals.get(), &info, sizeof(info));
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(sizeof(info)) ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace theus::coordinator
