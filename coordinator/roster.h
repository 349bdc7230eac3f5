// The roster: which processes are admitted, with what is needed to go on after a restart.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/control_message.h"
#include "shm/owned_fd.h"

namespace theus::coordinator {

struct RosterEntry {
  shm::Tenancy tenancy;
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
  shm::OwnedFd control;
  shm::OwnedFd pidfd;
  bool welcomed = false;  // false: it may still be waiting for its welcome
  bool detached = false;  // it said that it is leaving
};

// At most one entry for each slot.
using Roster = std::vector<RosterEntry>;

}  // namespace theus::coordinator
