// What two processes compare before they share memory.
//
// Thread safety: the functions keep no state.
#pragma once

#include <string>

#include "shm/control_message.h"

namespace theus::shm {

// This process, read anew each time (a forked child is somebody else). Throws std::system_error
// where /proc cannot be read.
Identity own_identity();

// Empty when both can share memory; otherwise a sentence that names both sides. `ours` is the
// coordinator's.
std::string difference(const Identity& ours, const Identity& theirs);

// What the kernel says about a worker that says hello, against what it says itself. Empty when all
// agrees. `peer_pid`: SO_PEERCRED's; `pidfd`: what it sent, -1 for an observer.
std::string disbelief(const Identity& theirs, std::uint32_t peer_pid, int pidfd);

}  // namespace theus::shm
