#include "shm/control_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>

namespace theus::shm {
namespace {

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// Room for the largest descriptor message, aligned as the kernel's header wants it.
struct alignas(cmsghdr) AncillaryBuffer {
  std::array<std::byte, CMSG_SPACE(kControlFdsMax * sizeof(int))> bytes{};
};

// How many descriptors belong to a message: {least, most}.
std::pair<std::size_t, std::size_t> fds_expected(const ControlMessage& message) {
  if (const auto* hello = std::get_if<Hello>(&message)) {
    return hello->role == Role::kWorker ? std::pair{1u, 1u} : std::pair{0u, 0u};
  }
  if (std::holds_alternative<Welcome>(message)) {
    return {2, 3};
  }
  if (std::holds_alternative<Admitted>(message)) {
    return {1, 2};
  }
  if (std::holds_alternative<Reserve>(message) || std::holds_alternative<Adopt>(message) ||
      std::holds_alternative<Adopted>(message)) {
    return {1, 1};
  }
  if (std::holds_alternative<Stopping>(message)) {
    return {1, 2};
  }
  return {0, 0};
}

// Takes over every descriptor that arrived, so that none is lost whatever is wrong with the rest.
std::vector<OwnedFd> take_fds(msghdr* header) {
  std::vector<OwnedFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

// An empty packet and the end of the stream both read as 0 bytes.
bool at_end_of_file(int socket) {
  pollfd entry{socket, POLLIN | POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

Received damaged(std::string why) {
  Received result;
  result.what = Received::What::kDamaged;
  result.why = std::move(why);
  return result;
}

Received of_kind(Received::What what) {
  Received result;
  result.what = what;
  return result;
}

Received failed_receive() {
  switch (errno) {
    case EAGAIN:
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
#endif
      return of_kind(Received::What::kNothing);
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
      return of_kind(Received::What::kClosed);
    default:
      return damaged(std::string("recvmsg: ") + std::strerror(errno));
  }
}

}  // namespace

std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

namespace {

// kYes, kFull and kGone as send_control() says; nullopt with errno for anything else.
std::optional<Sent> transmit(int socket, std::span<const std::byte> message,
                             std::span<const int> fds) noexcept {
  iovec content{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  AncillaryBuffer ancillary;
  if (!fds.empty()) {
    header.msg_control = ancillary.bytes.data();
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  }
  while (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    switch (errno) {
      case EINTR:
        continue;
      case EAGAIN:
#if EWOULDBLOCK != EAGAIN
      case EWOULDBLOCK:
#endif
      case ENOBUFS:
      case ETOOMANYREFS:  // descriptors that are under way and not yet received
        return Sent::kFull;
      case EPIPE:
      case ECONNRESET:
      case ENOTCONN:
        return Sent::kGone;
      default:
        return std::nullopt;
    }
  }
  return Sent::kYes;
}

}  // namespace

Sent send_control(int socket, const ControlMessage& message, std::span<const int> fds) {
  if (fds.size() > kControlFdsMax) {
    throw std::system_error(E2BIG, std::generic_category(), "descriptors of a control message");
  }
  const std::optional<Sent> sent = transmit(socket, encode_control(message), fds);
  if (!sent) {
    throw_errno("sendmsg on a control socket");
  }
  return *sent;
}

Sent send_encoded(int socket, std::span<const std::byte> message,
                  std::span<const int> fds) noexcept {
  return fds.size() > kControlFdsMax ? Sent::kGone
                                     : transmit(socket, message, fds).value_or(Sent::kGone);
}

Received receive_control(int socket) {
  std::array<std::byte, kControlBytesMax> buffer;
  iovec content{buffer.data(), buffer.size()};
  AncillaryBuffer ancillary;
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = ancillary.bytes.data();
  header.msg_controllen = ancillary.bytes.size();
  ssize_t length = 0;
  // A peer that closes with messages of ours unread resets the connection once, ahead of what it
  // had sent: that is still there.
  bool reset = false;
  do {
    reset = length < 0 && errno == ECONNRESET;
    length = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (length < 0 && (errno == EINTR || (errno == ECONNRESET && !reset)));
  if (length < 0) {
    return failed_receive();
  }

  std::vector<OwnedFd> fds = take_fds(&header);
  // The kernel drops what has no room in our buffer (too many) or our table (EMFILE).
  const bool lost_fds = (header.msg_flags & MSG_CTRUNC) != 0;
  if (lost_fds && fds.size() >= kControlFdsMax) {
    return damaged("more descriptors than any message has");
  }
  if ((header.msg_flags & MSG_TRUNC) != 0) {
    return damaged("a message of more than " + std::to_string(kControlBytesMax) + " bytes");
  }
  if (length == 0) {
    return at_end_of_file(socket) ? of_kind(Received::What::kClosed)
                                  : damaged("an empty message");
  }
  Received result;
  const auto message = std::span(buffer).first(static_cast<std::size_t>(length));
  std::optional<ControlMessage> decoded = decode_control(message, &result.why);
  if (!decoded) {
    return damaged(std::move(result.why));
  }
  if (lost_fds) {
    result.what = Received::What::kNoRoom;
    result.message = std::move(*decoded);
    return result;
  }
  const auto [least, most] = fds_expected(*decoded);
  if (fds.size() < least || fds.size() > most) {
    return damaged(std::string(control_name(*decoded)) + " with " + std::to_string(fds.size()) +
                   " descriptors");
  }
  result.what = Received::What::kMessage;
  result.message = std::move(*decoded);
  result.fds = std::move(fds);
  return result;
}

Received await_control(int socket, std::uint64_t deadline_ns) {
  // Bounded by the deadline: each turn either returns or waits in the kernel for what is left.
  for (;;) {
    Received result = receive_control(socket);
    if (result.what != Received::What::kNothing) {
      return result;
    }
    const std::uint64_t now = monotonic_ns();
    if (now >= deadline_ns) {
      return result;
    }
    pollfd entry{socket, POLLIN | POLLRDHUP, 0};
    const std::uint64_t left_ms = std::min<std::uint64_t>((deadline_ns - now) / 1'000'000u + 1,
                                                          60'000u);
    ::poll(&entry, 1, static_cast<int>(left_ms));  // EINTR and time-out: looked at above
  }
}

std::pair<OwnedFd, OwnedFd> make_control_pair() {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw_errno("socketpair");
  }
  return {OwnedFd(ends[0]), OwnedFd(ends[1])};
}

PeerCredentials peer_credentials(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    throw_errno("SO_PEERCRED");
  }
  return {static_cast<std::uint32_t>(credentials.pid), credentials.uid};
}

}  // namespace theus::shm
