#include "coordinator/reception.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "coordinator/process_setup.h"
#include "shm/hello.h"

namespace theus::coordinator {
namespace {

// Accepted between two looks at everything else.
constexpr int kAcceptsPerEvent = 16;
// How long nobody is accepted after the machine ran out of something.
constexpr std::uint64_t kPauseNs = 100'000'000;

std::uint64_t random_number() {
  std::uint64_t number = 0;
  ssize_t got = -1;
  do {
    got = ::getrandom(&number, sizeof(number), 0);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<ssize_t>(sizeof(number))) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  return number;
}

std::string describe(const shm::Received& received) {
  switch (received.what) {
    case shm::Received::What::kMessage:
      return std::string("an unexpected message: ") + shm::control_name(received.message);
    case shm::Received::What::kNoRoom:
      return "a descriptor for which there was no room";
    default:
      return "garbage: " + received.why;
  }
}

}  // namespace

Reception::Reception(EventLoop& loop, int listener, shm::Identity ours, spdlog::logger& log,
                     LogBudget& budget, Callbacks callbacks)
    : loop_(loop),
      listener_(listener),
      ours_(std::move(ours)),
      log_(log),
      budget_(budget),
      callbacks_(std::move(callbacks)),
      deadline_(loop, [this] { enforce_deadlines(); }),
      resume_(loop, [this] {
        if (listener_ticket_ == 0 && !closed_) {
          listener_ticket_ = loop_.watch(listener_, [this] { accept_waiting(); });
        }
      }) {
  listener_ticket_ = loop_.watch(listener_, [this] { accept_waiting(); });
}

Reception::~Reception() { close(); }

void Reception::close() {
  closed_ = true;
  loop_.forget(&listener_ticket_);
  while (!guests_.empty()) {
    dismiss(guests_.begin()->first, {});
  }
}

void Reception::accept_waiting() {
  for (int i = 0; i < kAcceptsPerEvent && !closed_; ++i) {
    if (!accept_one()) {
      return;
    }
  }
}

// True if there may be another.
bool Reception::accept_one() {
  shm::OwnedFd socket(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket) {
    greet(std::move(socket));
    return true;
  }
  switch (errno) {
    case EINTR:
    case ECONNABORTED:
      return true;
    case EAGAIN:
      return false;
    default:
      pause(std::strerror(errno));
      return false;
  }
}

void Reception::greet(shm::OwnedFd socket) {
  const shm::PeerCredentials credentials = shm::peer_credentials(socket.get());
  if (const auto refusal = objection(socket, credentials)) {
    if (budget_.spend(log_)) {
      log_.warn("refused a connection of process {} of user {}: {}", credentials.pid,
                credentials.uid, refusal->text);
    }
    shm::send_control(socket.get(), *refusal);
    return;
  }
  const GuestId id = ++last_;
  Visit& visit = guests_[id];
  visit.guest.socket = std::move(socket);
  visit.guest.credentials = credentials;
  visit.deadline_ns = shm::monotonic_ns() + kHelloLimitNs;
  visit.ticket = loop_.watch(visit.guest.socket.get(), [this, id] { on_message(id); });
  arm_deadline();
}

// What speaks against a connection before it has said anything.
std::optional<shm::Refusal> Reception::objection(const shm::OwnedFd& socket,
                                                 const shm::PeerCredentials& credentials) const {
  if (credentials.uid != ::geteuid()) {
    return shm::Refusal{shm::Reason::kForeign,
                        "the coordinator belongs to user " + std::to_string(::geteuid()) +
                            ", process " + std::to_string(credentials.pid) + " to user " +
                            std::to_string(credentials.uid)};
  }
  if (short_of_descriptors(socket.get())) {
    return shm::Refusal{shm::Reason::kFull,
                        "the coordinator has no descriptors left: its limit is " +
                            std::to_string(descriptor_limit()) +
                            ", and it needs three for each worker; start it with a higher one "
                            "(ulimit -n)"};
  }
  const auto same = std::count_if(guests_.begin(), guests_.end(), [&](const auto& visit) {
    return visit.second.guest.credentials.pid == credentials.pid;
  });
  if (guests_.size() >= kGuestsMax || static_cast<std::size_t>(same) >= kGuestsPerProcess) {
    return shm::Refusal{shm::Reason::kUnavailable, "too many connections at once"};
  }
  return std::nullopt;
}

void Reception::on_message(GuestId id) {
  Visit& visit = guests_.at(id);  // watched as long as it is there
  shm::Received received = shm::receive_control(visit.guest.socket.get());
  if (received.what == shm::Received::What::kNothing) {
    return;
  }
  if (received.what == shm::Received::What::kClosed) {
    dismiss(id, {});
    return;
  }
  if (received.what == shm::Received::What::kMessage) {
    if (visit.stage == Stage::kHello && std::holds_alternative<shm::Hello>(received.message)) {
      on_hello(id, visit, received);
      return;
    }
    if (visit.stage == Stage::kHello && std::holds_alternative<shm::Stop>(received.message)) {
      callbacks_.stop_requested(visit.guest);
      dismiss(id, {});
      return;
    }
    const auto* confirm = std::get_if<shm::Confirm>(&received.message);
    if (visit.stage == Stage::kConfirm && confirm != nullptr && confirm->number == visit.number) {
      on_confirmed(id, visit);
      return;
    }
  }
  dismiss(id, describe(received));
}

void Reception::on_hello(GuestId id, Visit& visit, shm::Received& received) {
  auto& hello = std::get<shm::Hello>(received.message);
  visit.role = hello.role;
  visit.guest.identity = std::move(hello.identity);
  if (!received.fds.empty()) {
    visit.guest.pidfd = std::move(received.fds.front());
  }
  std::string why = shm::difference(ours_, visit.guest.identity);
  if (why.empty()) {
    why = shm::disbelief(visit.guest.identity, visit.guest.credentials.pid,
                         visit.guest.pidfd.get());
  }
  if (!why.empty()) {
    refuse(id, {shm::Reason::kMismatch, why});
    return;
  }
  visit.number = random_number();
  visit.stage = Stage::kConfirm;
  if (shm::send_control(visit.guest.socket.get(), shm::Proceed{visit.number}) !=
      shm::Sent::kYes) {
    dismiss(id, {});
  }
}

void Reception::on_confirmed(GuestId id, Visit& visit) {
  if (visit.role == shm::Role::kObserver) {
    callbacks_.observer(visit.guest);
    dismiss(id, {});
    return;
  }
  visit.stage = Stage::kVerified;
  // What it sends or that it ends is read when it is a member.
  loop_.forget(&visit.ticket);
  callbacks_.worker(id, visit.guest);
}

std::optional<Guest> Reception::take(GuestId id) {
  const auto found = guests_.find(id);
  if (found == guests_.end()) {
    return std::nullopt;
  }
  Guest guest = std::move(found->second.guest);
  loop_.forget(&found->second.ticket);
  guests_.erase(found);
  return guest;
}

void Reception::refuse(GuestId id, const shm::Refusal& refusal) {
  const Visit& visit = guests_.at(id);
  shm::send_control(visit.guest.socket.get(), refusal);
  dismiss(id, refusal.text);
}

void Reception::dismiss(GuestId id, const std::string& why) {
  const auto found = guests_.find(id);
  if (found == guests_.end()) {
    return;
  }
  if (!why.empty() && budget_.spend(log_)) {
    log_.warn("dismissed a connection of process {}: {}", found->second.guest.credentials.pid,
              why);
  }
  loop_.forget(&found->second.ticket);
  guests_.erase(found);
}

void Reception::enforce_deadlines() {
  const std::uint64_t now = shm::monotonic_ns();
  for (auto next = guests_.begin(); next != guests_.end();) {
    const auto [id, visit] = std::tie(next->first, next->second);
    ++next;  // before the entry goes
    if (visit.deadline_ns > now) {
      break;
    }
    if (visit.stage != Stage::kVerified) {
      dismiss(id, "it did not say hello in time");
    }
  }
  arm_deadline();
}

void Reception::arm_deadline() {
  for (const auto& [id, visit] : guests_) {
    if (visit.stage != Stage::kVerified) {
      deadline_.at(visit.deadline_ns);
      return;
    }
  }
  deadline_.stop();
}

// Out of descriptors in the whole machine, say: a level-triggered listener would spin.
void Reception::pause(const char* why) {
  if (budget_.spend(log_)) {
    log_.warn("cannot accept a connection: {}", why);
  }
  loop_.forget(&listener_ticket_);
  resume_.at(shm::monotonic_ns() + kPauseNs);
}

}  // namespace theus::coordinator
