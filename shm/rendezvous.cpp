#include "shm/rendezvous.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "shm/control_channel.h"
#include "shm/hello.h"
#include "shm/process.h"
#include "shm/runtime_directory.h"

namespace theus::shm {
namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;
// Between two tries while a coordinator restarts, which takes it a few milliseconds.
constexpr int kRetryMs = 5;
// A coordinator that has not answered for so long may be stuck.
constexpr std::uint64_t kAlarmNs = 100 * kMillisecond;

Refusal ended() { return {Reason::kUnavailable, "it closed the connection"}; }

bool may_succeed_later(const Refusal& refusal) { return refusal.reason == Reason::kUnavailable; }

unsigned left_ms(std::uint64_t deadline_ns) {
  const std::uint64_t now = monotonic_ns();
  return deadline_ns <= now
             ? 0
             : static_cast<unsigned>(
                   std::min<std::uint64_t>((deadline_ns - now) / kMillisecond + 1, 60'000));
}

std::variant<OwnedFd, Refusal> connect_by_name(const std::string& name,
                                               const RuntimeDirectory& directory,
                                               std::uint64_t deadline_ns) {
  OwnedFd socket;
  try {
    // A limit of 0 would be none at all.
    socket = connect_to(directory.socket_address(name), std::max(1u, left_ms(deadline_ns)));
  } catch (const std::system_error& error) {
    switch (error.code().value()) {
      case ENOENT:
      case ECONNREFUSED:
        return Refusal{Reason::kNotFound, "no coordinator named '" + name + "' runs (" +
                                              directory.socket_path(name) + ")"};
      case EAGAIN:
        return Refusal{Reason::kUnavailable, "its queue is full"};
      case EACCES:
      case EPERM:
        return Refusal{Reason::kForeign, "the coordinator '" + name + "' belongs to another user"};
      default:
        throw;
    }
  }
  // The directory is private; this is for the day somebody relaxes that.
  const std::uint32_t owner = peer_credentials(socket.get()).uid;
  if (owner != ::geteuid()) {
    return Refusal{Reason::kForeign, "the coordinator '" + name + "' belongs to user " +
                                         std::to_string(owner) + ", this process to user " +
                                         std::to_string(::geteuid())};
  }
  return socket;
}

// Nothing came, or something that is neither the answer nor a refusal.
Refusal explain(Received& received) {
  switch (received.what) {
    case Received::What::kMessage:
      if (auto* refusal = std::get_if<Refusal>(&received.message)) {
        return std::move(*refusal);
      }
      return {Reason::kOther,
              std::string("the coordinator answered with ") + control_name(received.message)};
    case Received::What::kNothing:
      return {Reason::kUnavailable, "it did not reply"};
    case Received::What::kClosed:
      return ended();
    case Received::What::kDamaged:
      return {Reason::kOther, "the coordinator's answer makes no sense: " + received.why};
    case Received::What::kNoRoom:
      return {Reason::kOther, "this process has no descriptors left (ulimit -n)"};
  }
  return {Reason::kOther, "unknown"};
}

// Waits for an answer, and alarms the supervisor (whoever listens at the socket) while none comes.
Received await_answer(const OwnedFd& socket, std::uint64_t deadline_ns) {
  for (;;) {  // bounded by the deadline
    const std::uint64_t until = std::min(deadline_ns, monotonic_ns() + kAlarmNs);
    Received received = await_control(socket.get(), until);
    if (received.what != Received::What::kNothing || until == deadline_ns) {
      return received;
    }
    alarm_supervisor(peer_credentials(socket.get()).pid);
  }
}

template <class Message>
Message* wanted(Received& received) {
  return received.what == Received::What::kMessage ? std::get_if<Message>(&received.message)
                                                   : nullptr;
}

// Runs `attempt` with fresh connections until the result is something else than a Refusal with
// kUnavailable.
template <class Result, class Attempt>
Result persist(const std::string& name, std::uint64_t deadline_ns, Attempt attempt) {
  check_name(name);
  const RuntimeDirectory directory = open_runtime_directory();
  for (;;) {  // bounded by the deadline
    auto connected = connect_by_name(name, directory, deadline_ns);
    auto* socket = std::get_if<OwnedFd>(&connected);
    Result result = socket != nullptr ? attempt(std::move(*socket))
                                      : Result(std::move(std::get<Refusal>(connected)));
    auto* refusal = std::get_if<Refusal>(&result);
    if (refusal == nullptr || !may_succeed_later(*refusal)) {
      return result;
    }
    if (monotonic_ns() >= deadline_ns) {
      refusal->text = "no answer from the coordinator '" + name + "' in time: " + refusal->text;
      return result;
    }
    ::poll(nullptr, 0, kRetryMs);
  }
}

}  // namespace

std::variant<Admission, Refusal> say_hello(OwnedFd socket, const Identity& identity, Role role,
                                           std::uint64_t deadline_ns) {
  Sent sent = Sent::kYes;
  if (role == Role::kWorker) {
    const OwnedFd self = open_pidfd(static_cast<std::uint32_t>(::getpid()));
    sent = send_control(socket.get(), Hello{identity, role}, {self.get()});
  } else {
    sent = send_control(socket.get(), Hello{identity, role});
  }
  // When a send fails the answer may be there all the same (a refusal that came first).
  Received received = await_answer(socket, deadline_ns);
  const auto* proceed = wanted<Proceed>(received);
  if (proceed == nullptr) {
    return explain(received);
  }
  if (sent == Sent::kYes) {
    sent = send_control(socket.get(), Confirm{proceed->number});
  }
  received = await_answer(socket, deadline_ns);
  const auto* welcome = wanted<Welcome>(received);
  if (welcome == nullptr) {
    // Given up, but perhaps only just admitted: then the slot must not wait for this process's end.
    send_control(socket.get(), Detach{});
    return explain(received);
  }
  std::vector<OwnedFd>& fds = received.fds;
  if (fds.size() != (role == Role::kWorker ? 3u : 2u)) {
    return Refusal{Reason::kOther, "the coordinator sent " + std::to_string(fds.size()) +
                                       " descriptors"};
  }
  Admission admission;
  std::size_t next = 0;
  if (role == Role::kWorker) {
    admission.segments.data_writable = fds[next++].release();
    admission.slot = welcome->slot;
  }
  admission.segments.data_readable = fds[next++].release();
  admission.segments.desks = fds[next].release();
  admission.coordinator_pid = welcome->coordinator_pid;
  admission.supervisor_pid = welcome->supervisor_pid;
  admission.capacity_bytes = welcome->capacity_bytes;
  admission.control = std::move(socket);
  return admission;
}

std::variant<Admission, Refusal> join(const std::string& name, Role role,
                                      std::uint64_t deadline_ns) {
  return persist<std::variant<Admission, Refusal>>(name, deadline_ns, [&](OwnedFd socket) {
    return say_hello(std::move(socket), own_identity(), role, deadline_ns);
  });
}

void alarm_supervisor(std::uint32_t pid) {
  // From a peer's message, so it may be anything; kill() takes 0 and less as groups.
  if (const auto number = static_cast<pid_t>(pid); number > 0) {
    ::kill(number, kAlarmSignal);
  }
}

std::optional<Refusal> request_stop(const std::string& name, std::uint64_t deadline_ns) {
  using Result = std::variant<std::vector<OwnedFd>, Refusal>;
  Result result = persist<Result>(name, deadline_ns, [&](OwnedFd socket) -> Result {
    send_control(socket.get(), Stop{});
    Received received = await_answer(socket, deadline_ns);
    if (wanted<Stopping>(received) != nullptr) {
      return std::move(received.fds);
    }
    return explain(received);
  });
  if (auto* refusal = std::get_if<Refusal>(&result)) {
    return std::move(*refusal);
  }
  for (const OwnedFd& pidfd : std::get<std::vector<OwnedFd>>(result)) {
    pollfd entry{pidfd.get(), POLLIN, 0};
    while (::poll(&entry, 1, static_cast<int>(left_ms(deadline_ns))) != 1) {
      if (monotonic_ns() >= deadline_ns) {
        return Refusal{Reason::kUnavailable,
                       "the coordinator '" + name + "' was asked to end and has not yet done so"};
      }
    }
  }
  return std::nullopt;
}

}  // namespace theus::shm
