// What /proc and pidfds tell about a process.
//
// Thread safety: the functions keep no state.
#pragma once

#include <cstdint>
#include <optional>

#include "shm/owned_fd.h"

namespace theus::shm {

// A descriptor that stands for the process (not its number, which may be used again), readable once
// it has ended. Throws std::system_error.
OwnedFd open_pidfd(std::uint32_t pid);

// The process that a pidfd stands for: nullopt when it has ended, cannot be seen from here, or the
// descriptor is no pidfd.
std::optional<std::uint32_t> pid_of_pidfd(int pidfd);

// False: it has ended already, or it is no pidfd, or it is not ours to signal.
bool send_signal(int pidfd, int signal_number);

// Clock ticks from the machine's start to the process's: with the pid, names a process for ever.
// nullopt: there is none.
std::optional<std::uint64_t> start_time(std::uint32_t pid);

// State letter of one thread as in /proc/PID/task/TID/stat ('R' running, 'S' sleeping, 'T' stopped,
// 't' traced, ...). nullopt: that process has no such thread.
std::optional<char> thread_state(std::uint32_t pid, std::uint32_t thread_id);

// Whether the process has the file behind `fd` mapped. nullopt: it cannot be told (its memory is
// closed to us, or it is gone).
std::optional<bool> maps_file(std::uint32_t pid, int fd);

// Inode of this process's PID namespace. Thread ids in the arbitration lock mean something only to
// processes within one. Throws std::system_error.
std::uint64_t pid_namespace();

}  // namespace theus::shm
