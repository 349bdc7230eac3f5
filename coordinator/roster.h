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
  shm::OwnedFd pidfd;     // a spare slot's: none until it is adopted
  bool welcomed = false;  // false: it may still be waiting for its welcome
  bool detached = false;  // it said that it is leaving
  // A slot for a forked child (pins only). Until the child adopts it there is no pid and no pidfd,
  // and it is gone when its socket is at end of file.
  bool spare = false;
};

// At most one entry for each slot.
using Roster = std::vector<RosterEntry>;

}  // namespace theus::coordinator
