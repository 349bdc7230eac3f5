#include "coordinator/estate.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>

namespace theus::coordinator {
namespace {

// How often a lock file may turn out to have just been removed by its last owner.
constexpr int kLockTriesMax = 100;

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string read_owner(int fd) {
  std::array<char, 32> buffer{};
  const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), 0);
  const std::string_view text(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  const std::string_view digits = text.substr(0, text.find_first_not_of("0123456789"));
  return digits.empty() ? "not yet known" : std::string(digits);
}

// True if `fd` is the file that now stands at `path`, and not one that was removed meanwhile.
bool stands_at(int fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

shm::OwnedFd take_lock(const std::string& name, const std::string& path) {
  for (int i = 0; i < kLockTriesMax; ++i) {
    shm::OwnedFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) {
      throw_errno("cannot open " + path);
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno != EWOULDBLOCK) {
        throw_errno("cannot lock " + path);
      }
      throw NameTaken("a coordinator named '" + name + "' runs already (process " +
                      read_owner(fd.get()) + ")");
    }
    if (stands_at(fd.get(), path)) {
      return fd;
    }
  }
  errno = EAGAIN;
  throw_errno(path + " is removed as fast as it is made");
}

shm::OwnedFd open_readable(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  shm::OwnedFd readable(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable) {
    throw_errno("cannot open the desks for reading");
  }
  return readable;
}

}  // namespace

Estate Estate::claim(const Options& options) {
  shm::check_name(options.name);
  ::umask(077);  // sockets have no mode argument
  Estate estate;
  estate.options = options;
  estate.directory = shm::open_runtime_directory();
  estate.lock = take_lock(options.name, estate.directory.lock_path(options.name));
  estate.sign();
  estate.segments = shm::create_segments(options.capacity_bytes);
  estate.desks_readable = open_readable(estate.segments.desks);
  // With the name ours, a socket that is there belonged to somebody who died.
  ::unlink(estate.directory.socket_path(options.name).c_str());
  estate.listener = shm::listen_at(estate.directory.socket_address(options.name));
  return estate;
}

void Estate::sign() const {
  const std::string text = std::to_string(::getpid()) + "\n";
  // For people only, so a failure (a full disk) is no reason to stop.
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return;
  }
}

void Estate::remove_files() const {
  ::unlink(directory.socket_path(options.name).c_str());
  ::unlink(directory.lock_path(options.name).c_str());
}

}  // namespace theus::coordinator
