// The client's side of the control socket: finding a coordinator and being admitted by it. For
// workers (worker/connection.h makes exceptions of the refusals) and for tools.
//
// Thread safety: the functions keep no state.
#pragma once

#include <signal.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "shm/control_message.h"
#include "shm/owned_fd.h"
#include "shm/space.h"

namespace theus::shm {

struct Admission {
  SegmentFds segments;  // an observer's: data_writable is -1, and desks is read-only
  OwnedFd control;      // an observer's: at end of file
  std::uint32_t slot = kNoSlot;
  std::uint32_t coordinator_pid = 0;
  std::uint32_t supervisor_pid = 0;  // 0: none is left
  std::uint64_t capacity_bytes = 0;
};

// Connects to the coordinator `name` and says hello. When the coordinator is restarted meanwhile,
// tries again, until monotonic_ns() reaches `deadline_ns`. Throws RendezvousError (bad name or
// directory) and std::system_error; everything that a coordinator may answer is a Refusal.
std::variant<Admission, Refusal> join(const std::string& name, Role role,
                                      std::uint64_t deadline_ns);

// The part of it that follows connecting, with the identity given (tests lie about theirs). A
// Refusal with kUnavailable: another try may succeed.
std::variant<Admission, Refusal> say_hello(OwnedFd socket, const Identity& identity, Role role,
                                           std::uint64_t deadline_ns);

// Asks a supervisor to see for itself whether its coordinator is stuck with the arbitration lock.
// By a signal that does nothing to whoever does not wait for it: the number may be another
// process's by now. 0: there is no supervisor.
inline constexpr int kAlarmSignal = SIGURG;
void alarm_supervisor(std::uint32_t pid);

// Asks the coordinator `name` to end, and waits until its processes are gone. nullopt: they are.
// Otherwise why not. Throws as join() does.
std::optional<Refusal> request_stop(const std::string& name, std::uint64_t deadline_ns);

}  // namespace theus::shm
