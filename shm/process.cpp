#include "shm/process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

namespace theus::shm {
namespace {

// A file of /proc, as much of it as fits: all that is looked for stands near the beginning.
class ProcFile {
 public:
  explicit ProcFile(const char* path) {
    OwnedFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    ssize_t got = -1;
    if (fd) {
      do {
        got = ::read(fd.get(), buffer_.data(), buffer_.size());
      } while (got < 0 && errno == EINTR);
    }
    length_ = got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  std::string_view text() const { return {buffer_.data(), length_}; }

 private:
  std::array<char, 2048> buffer_{};
  std::size_t length_ = 0;
};

template <class Number>
std::optional<Number> parse(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end != text.data() ? std::optional(value) : std::nullopt;
}

// Field `number` (from 3 on) of a stat file. The second, the program's name, may hold spaces and
// parentheses, so that one counts from the last closing one.
std::string_view stat_field(std::string_view stat, int number) {
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 > stat.size()) {
    return {};
  }
  std::string_view rest = stat.substr(name_end + 2);
  for (int field = 3; field < number; ++field) {
    const std::size_t space = rest.find(' ');
    if (space == std::string_view::npos) {
      return {};
    }
    rest.remove_prefix(space + 1);
  }
  return rest.substr(0, rest.find(' '));
}

}  // namespace

OwnedFd open_pidfd(std::uint32_t pid) {
  // By number, as the wrappers are younger than the oldest C library that is supported.
  const long fd = ::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0u);
  if (fd < 0) {
    throw std::system_error(errno, std::generic_category(),
                            "pidfd_open of process " + std::to_string(pid));
  }
  return OwnedFd(static_cast<int>(fd));  // the kernel sets CLOEXEC on it
}

std::optional<std::uint32_t> pid_of_pidfd(int pidfd) {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", pidfd);
  const ProcFile file(path.data());
  constexpr std::string_view kLabel = "\nPid:\t";
  const std::size_t place = file.text().find(kLabel);
  if (place == std::string_view::npos) {
    return std::nullopt;
  }
  const auto pid = parse<std::int64_t>(file.text().substr(place + kLabel.size()));
  if (!pid || *pid <= 0) {  // -1: ended and reaped; 0: outside our PID namespace
    return std::nullopt;
  }
  return static_cast<std::uint32_t>(*pid);
}

bool send_signal(int pidfd, int signal_number) {
  return ::syscall(SYS_pidfd_send_signal, pidfd, signal_number, nullptr, 0u) == 0;
}

std::optional<std::uint64_t> start_time(std::uint32_t pid) {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/%u/stat", pid);
  constexpr int kStartTime = 22;
  return parse<std::uint64_t>(stat_field(ProcFile(path.data()).text(), kStartTime));
}

std::optional<char> thread_state(std::uint32_t pid, std::uint32_t thread_id) {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/%u/task/%u/stat", pid, thread_id);
  const ProcFile file(path.data());
  constexpr int kState = 3;
  const std::string_view state = stat_field(file.text(), kState);
  return state.empty() ? std::nullopt : std::optional(state.front());
}

std::optional<bool> maps_file(std::uint32_t pid, int fd) {
  struct stat wanted {};
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  if (!maps || ::fstat(fd, &wanted) != 0) {
    return std::nullopt;
  }
  // address permissions offset major:minor inode name
  std::string line;
  bool any = false;
  while (std::getline(maps, line)) {
    any = true;
    unsigned device_major = 0, device_minor = 0;
    unsigned long long inode = 0;
    if (std::sscanf(line.c_str(), "%*s %*s %*s %x:%x %llu", &device_major, &device_minor,
                    &inode) == 3 &&
        inode == wanted.st_ino && makedev(device_major, device_minor) == wanted.st_dev) {
      return true;
    }
  }
  // A process that is on its way out has none; every other has some.
  return any ? std::optional(false) : std::nullopt;
}

std::uint64_t pid_namespace() {
  struct stat status {};
  if (::stat("/proc/self/ns/pid", &status) != 0) {
    throw std::system_error(errno, std::generic_category(), "/proc/self/ns/pid");
  }
  return status.st_ino;
}

}  // namespace theus::shm
