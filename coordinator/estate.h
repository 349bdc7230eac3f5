// What a coordinator's two processes hold in common, and the second inherits from the first: the
// name (a locked file), the listening socket, the memory.
//
// Thread safety: one thread at a time.
#pragma once

#include <stdexcept>
#include <string>

#include "coordinator/options.h"
#include "shm/owned_fd.h"
#include "shm/runtime_directory.h"
#include "shm/space.h"

namespace theus::coordinator {

// Another coordinator has the name.
struct NameTaken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Estate {
  Options options;
  shm::RuntimeDirectory directory;
  shm::OwnedFd lock;      // the lock file; flock is held as long as any copy of this is open
  shm::OwnedFd listener;
  shm::SegmentFds segments;
  shm::OwnedFd desks_readable;  // for observers: opened read-only
  shm::OwnedFd starter;         // control channel to the starter, later the lifeline; may be none

  // Takes the name, makes the memory, listens. Throws NameTaken naming the owner's pid, and
  // RendezvousError, std::system_error.
  static Estate claim(const Options& options);

  // Writes this process's pid into the lock file: whom to name to those who want the name.
  void sign() const;
  // Gives the name back. The socket first: from the lock file's removal on, another coordinator may
  // have the name.
  void remove_files() const;
};

}  // namespace theus::coordinator
