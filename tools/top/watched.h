// A running coordinator, seen from outside: finding it, mapping it, noticing its end.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "shm/owned_fd.h"
#include "shm/space.h"
#include "tools/top/picture.h"

namespace theus::top {

// Whose message is for the user.
struct NotFound : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct CannotWatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Names of this user's running coordinators, sorted. Throws CannotWatch when the runtime directory
// is unusable.
std::vector<std::string> running_names();

// The state that a coordinator keeps, read-only.
class Watched {
 public:
  // Waits up to `patience_ns` while a coordinator restarts. Throws NotFound when none runs,
  // CannotWatch when it is of another build, another user's, or does not answer.
  Watched(std::string name, std::uint64_t patience_ns);

  // Rates are over the time since the last look; the first has none.
  Picture look();

  // True when nobody is left to admit workers and to take back what the dead had. The workers may
  // go on for as long as they like.
  bool ended();

 private:
  std::string name_;
  std::unique_ptr<shm::Space> space_;
  Observation observation_;
  std::uint32_t coordinator_pid_ = 0;
  std::uint32_t supervisor_pid_ = 0;
  shm::OwnedFd coordinator_;  // pidfds; none: it has ended
  shm::OwnedFd supervisor_;
};

}  // namespace theus::top
