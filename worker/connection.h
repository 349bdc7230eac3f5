// Finding a coordinator, starting one, and being admitted by it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/session.h"

namespace theus::worker {

// Where the control socket of coordinator `name` is: a private directory of this user, mode 0700
// ($XDG_RUNTIME_DIR/theus, or theus-<uid> in the temporary directory). Throws Error when the
// directory belongs to somebody else or is open to others, or the name is unusable as a file name.
std::string socket_path(const std::string& name);

// Connects and says hello; waits at most 10 s (the coordinator may be restarting). Throws
// CoordinatorNotFound, VersionMismatch (layout, C library, PID namespace: naming both sides), Error
// (refused: another user, no slot left; no answer).
Attachment attach(const std::string& name);

// The three below never block and never throw.
//
// Tells the coordinator that the arbitration lock has stood at this sequence number for too long:
// it then looks for itself, and fences a holder that is stuck. It may be that itself, so its
// supervisor is told to look, too. To be repeated while it lasts; the coordinator may have been
// restarted meanwhile. False: it is gone. Without a coordinator (tests) does nothing.
bool report_stuck(const Attachment& attachment, std::uint64_t lock_sequence);
// The worker is done with its slot: it touches nothing shared from here on, and closes control_fd
// next. Without this the slot stays its own until the process ends.
bool announce_detach(int control_fd);
// True when the coordinator and its supervisor are both gone, or have ended. A coordinator that is
// restarted is not gone.
bool coordinator_gone(int control_fd);

struct StartOptions {
  std::string executable;            // path of theus-coordinator
  std::string name;                  // empty: a fresh unique one is chosen
  std::uint64_t capacity_bytes = 0;  // 0: the coordinator's default
  bool embedded = true;              // ends by itself when nobody uses it any more
  std::string log_path;              // empty: /dev/null for an embedded one, else stderr
};
struct Started {
  std::string name;
  std::uint32_t pid = 0;             // of the coordinator
  std::uint32_t supervisor_pid = 0;  // of the process that restarts it; 0: none is left
  int lifeline_fd = -1;              // owned by the caller; for an embedded one: while this is
                                     // open (or anyone is attached) it stays
};
// Starts a coordinator process (own session, no inherited descriptors, never a zombie of ours) and
// returns once it accepts connections. If one of that name runs already, returns that one's pids,
// without a lifeline: an embedded one may end before the caller attaches, so open() is a loop of
// attach, start, attach. Throws VersionMismatch when the one that runs is of another build, Error
// with the coordinator's own words when it could not start. Safe in a process with threads: no
// fork handler runs.
Started start_coordinator(const StartOptions& options);

// Ends the coordinator `name` (by a request on the control socket) and returns when both of its
// processes are gone. Throws CoordinatorNotFound when none runs, Error after timeout_s. Workers
// that are still attached get CoordinatorLost at their next transaction.
void stop_coordinator(const std::string& name, double timeout_s);

}  // namespace theus::worker
