#include "coordinator/process_setup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace theus::coordinator {
namespace {

constexpr unsigned kFirstOther = 3;  // after stdin, stdout, stderr
constexpr std::uint64_t kDescriptorsKept = 16;

// By number, as the wrapper is younger than the oldest C library that is supported.
void close_from_to(unsigned first, unsigned last) {
  if (first <= last) {
    ::syscall(SYS_close_range, first, last, 0u);
  }
}

void fill_stdio() {
  for (int fd = 0; fd < static_cast<int>(kFirstOther); ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) {
      // open() takes the lowest free number, which is this one.
      [[maybe_unused]] const int opened = ::open("/dev/null", O_RDWR);
    }
  }
}

void set_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGABRT, SIGSEGV, SIGBUS}) {
    ::signal(number, SIG_DFL);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);  // staying below is found out when it is reached
  }
}

}  // namespace

void detach_from_inheritance(int keep_fd) {
  fill_stdio();
  const auto keep = static_cast<unsigned>(keep_fd);
  if (keep_fd < static_cast<int>(kFirstOther)) {
    close_from_to(kFirstOther, ~0u);
  } else {
    close_from_to(kFirstOther, keep - 1);
    close_from_to(keep + 1, ~0u);
    ::fcntl(keep_fd, F_SETFD, FD_CLOEXEC);
  }
  set_signals();
  raise_descriptor_limit();
}

std::uint64_t descriptor_limit() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

bool short_of_descriptors(int newest_fd) {
  return static_cast<std::uint64_t>(newest_fd) + kDescriptorsKept >= descriptor_limit();
}

void leave_parent() {
  const pid_t pid = ::fork();
  if (pid < 0) {
    throw std::system_error(errno, std::generic_category(), "fork");
  }
  if (pid > 0) {
    ::_exit(0);
  }
}

}  // namespace theus::coordinator
