// Signals that end a coordinator, taken from a descriptor instead of a handler.
#pragma once

#include <initializer_list>

#include "shm/owned_fd.h"

namespace theus::coordinator {

// Blocks these signals in this thread (and those it starts, and children) and returns a descriptor
// that delivers them. Throws std::system_error.
shm::OwnedFd open_signals(std::initializer_list<int> numbers);

// The next signal, 0: none. Never blocks.
int next_signal(const shm::OwnedFd& signals);

}  // namespace theus::coordinator
