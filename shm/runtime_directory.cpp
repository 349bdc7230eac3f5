#include "shm/runtime_directory.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace theus::shm {
namespace {

std::string choose_path() {
  if (const char* given = std::getenv("XDG_RUNTIME_DIR"); given != nullptr && given[0] == '/') {
    struct stat status {};
    if (::stat(given, &status) == 0 && S_ISDIR(status.st_mode)) {
      return std::string(given) + "/theus";
    }
  }
  return "/tmp/theus-" + std::to_string(::geteuid());
}

sockaddr_un to_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(), path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

OwnedFd make_socket(int flags) {
  OwnedFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0));
  if (!fd) {
    throw std::system_error(errno, std::generic_category(), "socket");
  }
  return fd;
}

}  // namespace

void check_name(const std::string& name) {
  const auto refuse = [&name](const std::string& why) {
    throw RendezvousError("'" + name.substr(0, kNameBytesMax) + "' cannot name a coordinator: " +
                          why);
  };
  if (name.empty()) {
    refuse("it is empty");
  }
  if (name.size() > kNameBytesMax) {
    refuse("it is longer than " + std::to_string(kNameBytesMax) + " bytes");
  }
  if (name.front() == '.') {
    refuse("it starts with a dot");
  }
  for (const char c : name) {
    if (c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      refuse("it has a slash or a control character in it");
    }
  }
}

std::string RuntimeDirectory::socket_address(const std::string& name) const {
  std::string direct = socket_path(name);
  if (direct.size() < sizeof(sockaddr_un::sun_path)) {
    return direct;
  }
  return "/proc/self/fd/" + std::to_string(fd.get()) + "/" + name + ".sock";
}

RuntimeDirectory open_runtime_directory() {
  RuntimeDirectory directory{choose_path(), OwnedFd()};
  const auto refuse = [&directory](const std::string& why) {
    throw RendezvousError("the runtime directory " + directory.path + " " + why);
  };
  if (::mkdir(directory.path.c_str(), 0700) != 0 && errno != EEXIST) {
    refuse(std::string("cannot be made: ") + std::strerror(errno));
  }
  // O_NOFOLLOW: in /tmp, a link in its place would be somebody else's choice of directory.
  directory.fd.reset(
      ::open(directory.path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  if (!directory.fd || ::fstat(directory.fd.get(), &status) != 0) {
    refuse(std::string("cannot be opened: ") + std::strerror(errno));
  }
  if (status.st_uid != ::geteuid()) {
    refuse("belongs to user " + std::to_string(status.st_uid) + ", not to user " +
           std::to_string(::geteuid()) + "; remove it or set XDG_RUNTIME_DIR");
  }
  if ((status.st_mode & 077) != 0) {
    refuse("is open to other users; run chmod 700 on it");
  }
  return directory;
}

OwnedFd listen_at(const std::string& address) {
  const sockaddr_un place = to_address(address);
  OwnedFd fd = make_socket(SOCK_NONBLOCK);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&place), sizeof(place)) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot listen at " + address);
  }
  return fd;
}

OwnedFd connect_to(const std::string& address, unsigned timeout_ms) {
  const sockaddr_un place = to_address(address);
  OwnedFd fd = make_socket(0);
  // Bounds the wait for a place in the listener's queue.
  const timeval limit{static_cast<time_t>(timeout_ms / 1000),
                      static_cast<suseconds_t>(timeout_ms % 1000) * 1000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  int result = 0;
  do {  // a Unix socket is either connected or not: an interrupted connect can be repeated
    result = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&place), sizeof(place));
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot connect to " + address);
  }
  return fd;
}

}  // namespace theus::shm
