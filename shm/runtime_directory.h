// The private directory in which coordinators are found: NAME.sock and NAME.lock.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "shm/owned_fd.h"

namespace theus::shm {

// What is wrong with a name or with the directory, in words for the user.
struct RendezvousError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Names become file names, and with /proc/self/fd/N/ before and .sock after have to fit into a
// socket address (108 bytes).
inline constexpr std::size_t kNameBytesMax = 64;

// Throws RendezvousError unless `name` is 1 to kNameBytesMax bytes, without '/' and control
// characters, and does not start with '.'.
void check_name(const std::string& name);

// An open directory of this user that nobody else can enter.
struct RuntimeDirectory {
  std::string path;
  OwnedFd fd;

  std::string socket_path(const std::string& name) const { return path + "/" + name + ".sock"; }
  std::string lock_path(const std::string& name) const { return path + "/" + name + ".lock"; }
  // The address to bind or connect to: the path, or, where that is too long for a socket address,
  // the way through our own descriptor (valid in this process only).
  std::string socket_address(const std::string& name) const;
};

// $XDG_RUNTIME_DIR/theus if that variable names a directory, otherwise /tmp/theus-UID; made if it
// is not there. Throws RendezvousError when it belongs to somebody else, is open to others, or
// cannot be made. Not the temporary directory of TMPDIR: two programs have to find the same place.
RuntimeDirectory open_runtime_directory();

// The coordinator's socket, SOCK_SEQPACKET: listening (accepting from it never blocks), and
// connected to. Throw std::system_error (connecting: ENOENT and ECONNREFUSED mean that there is no
// coordinator, EAGAIN that the time is up).
OwnedFd listen_at(const std::string& address);
OwnedFd connect_to(const std::string& address, unsigned timeout_ms);

}  // namespace theus::shm
