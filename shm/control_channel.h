// Sending and receiving control messages, with descriptors, over a SOCK_SEQPACKET Unix socket.
//
// A packet is one message: nothing has to be reassembled, and a peer that sends garbage cannot make
// the next message be misread. What a peer sends is never believed and never asserted.
//
// Thread safety: the functions keep no state; two threads that receive from one socket get
// different messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "shm/control_message.h"
#include "shm/owned_fd.h"

namespace theus::shm {

// CLOCK_MONOTONIC. It stands still while the machine is suspended, as it should for time limits.
std::uint64_t monotonic_ns();

enum class Sent {
  kYes,
  kGone,   // the other side has closed the socket
  kFull,   // it does not read what it was sent
};
// Never blocks, whatever the socket's mode; no SIGPIPE. Throws std::system_error when the kernel
// refuses for another reason (a descriptor that is none: our bug; out of memory).
Sent send_control(int socket, const ControlMessage& message, std::span<const int> fds = {});
inline Sent send_control(int socket, const ControlMessage& message,
                         std::initializer_list<int> fds) {
  return send_control(socket, message, std::span<const int>(fds.begin(), fds.size()));
}

// The same for a message that encode_control() has made before: async-signal-safe. kGone for
// whatever else the kernel says, too.
Sent send_encoded(int socket, std::span<const std::byte> message,
                  std::span<const int> fds) noexcept;

struct Received {
  enum class What {
    kMessage,
    kNothing,  // nothing there (yet)
    kClosed,   // end of file
    kDamaged,  // not a message of ours; `why` says what was wrong
    kNoRoom,   // a message, but its descriptors did not fit into our descriptor table
  };
  What what = What::kNothing;
  ControlMessage message;
  std::vector<OwnedFd> fds;  // as many as the kind of message calls for
  std::string why;
};
// Never blocks. After kDamaged the socket is still usable, but hardly worth it.
Received receive_control(int socket);

// Waits until something else than kNothing can be had, or monotonic_ns() reaches `deadline_ns`
// (then kNothing).
Received await_control(int socket, std::uint64_t deadline_ns);

// Both ends of a channel within a family of processes; CLOEXEC. Throws std::system_error.
std::pair<OwnedFd, OwnedFd> make_control_pair();

// Who connected, or (on the side that connected) who listens, as the kernel saw it at that time.
struct PeerCredentials {
  std::uint32_t pid = 0;  // 0: in a PID namespace that ours cannot see
  std::uint32_t uid = 0;
};
// Throws std::system_error.
PeerCredentials peer_credentials(int socket);

}  // namespace theus::shm
