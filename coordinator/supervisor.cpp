#include "coordinator/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "coordinator/signals.h"
#include "shm/rendezvous.h"

namespace theus::coordinator {
namespace {

// How long a child that was asked to end may take.
constexpr std::uint64_t kStopLimitNs = 5'000'000'000;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

Supervisor::Supervisor(Estate& estate, spdlog::logger& log)
    : estate_(estate),
      log_(log),
      roster_(shm::kMaxSlots),
      watch_(estate.segments.data_readable, log) {}

std::optional<Supervisor::Child> Supervisor::run() {
  signals_ = open_signals({SIGTERM, SIGINT, SIGHUP, SIGCHLD, shm::kAlarmSignal});
  while (!over_) {
    if (start_child()) {
      return Child{roster_copy(), std::move(child_channel_)};
    }
    watch_over();
  }
  for (auto& entry : roster_) {
    if (entry) {
      ::shutdown(entry->control.get(), SHUT_RDWR);  // in case the child could not
    }
  }
  estate_.remove_files();
  if (!announced_ && estate_.starter) {
    shm::send_control(estate_.starter.get(),
                      shm::Failed{{shm::Reason::kOther,
                                   "the coordinator ended before it was ready; its log (" +
                                       estate_.options.log_path + ") says why"}});
  }
  return std::nullopt;
}

// ---------------------------------------------------------------------------------------- child

bool Supervisor::start_child() {
  std::tie(channel_, child_channel_) = shm::make_control_pair();
  serving_ = false;
  child_ = ::fork();
  if (child_ < 0) {
    throw_errno("fork");
  }
  if (child_ == 0) {
    reset_for_child();
    return true;
  }
  child_channel_.reset();
  watch_.begin(child_);
  return false;
}

void Supervisor::reset_for_child() {
  channel_.reset();
  signals_.reset();
  // The server takes the other signals by a descriptor, too; children it has none.
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGCHLD);
  ::sigaddset(&set, shm::kAlarmSignal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  if (!estate_.options.embedded) {
    estate_.starter.reset();  // the supervisor answers the starter; there is no lifeline
  }
}

Roster Supervisor::roster_copy() {
  Roster roster;
  for (auto& entry : roster_) {
    if (entry) {
      roster.push_back(std::move(*entry));
      entry.reset();
    }
  }
  return roster;
}

void Supervisor::watch_over() {
  while (child_ > 0) {
    pollfd entries[2] = {{signals_.get(), POLLIN, 0}, {channel_.get(), POLLIN, 0}};
    const nfds_t count = channel_ ? 2 : 1;  // closed after the child's end
    if (::poll(entries, count, poll_timeout_ms()) < 0 && errno != EINTR) {
      throw_errno("poll");
    }
    // Messages first: what the child said before it ended has to be known when it is replaced.
    if (count == 2 && entries[1].revents != 0) {
      read_channel();
    }
    while (const int number = next_signal(signals_)) {
      on_signal(number);
    }
    if (child_ > 0 && watch_.look()) {
      ::kill(child_, SIGKILL);
    }
    if (kill_at_ns_ != 0 && child_ > 0 && shm::monotonic_ns() >= kill_at_ns_) {
      log_.error("process {} did not end in time and is killed", child_);
      ::kill(child_, SIGKILL);
      kill_at_ns_ += kStopLimitNs;
    }
  }
}

int Supervisor::poll_timeout_ms() const {
  const std::uint64_t never = ~std::uint64_t{0};
  const std::uint64_t until =
      std::min(watch_.next_look_ns(), kill_at_ns_ == 0 ? never : kill_at_ns_);
  if (until == never) {
    return -1;
  }
  const std::uint64_t now = shm::monotonic_ns();
  return until <= now ? 0 : static_cast<int>((until - now) / 1'000'000u + 1);
}

void Supervisor::on_signal(int number) {
  if (number == SIGCHLD) {
    on_child_changed();
  } else if (number == shm::kAlarmSignal) {
    watch_.alarm();
  } else {
    begin_stop(number);
  }
}

void Supervisor::begin_stop(int number) {
  if (kill_at_ns_ != 0) {
    return;
  }
  log_.info("ending: signal {}", ::strsignal(number));
  kill_at_ns_ = shm::monotonic_ns() + kStopLimitNs;
  if (child_ > 0) {
    // Not reaped yet, so the number is its own. A stopped one has to run to end.
    ::kill(child_, SIGTERM);
    ::kill(child_, SIGCONT);
  }
}

void Supervisor::on_child_changed() {
  while (child_ > 0) {
    siginfo_t info{};
    const int result = ::waitid(P_PID, static_cast<id_t>(child_), &info,
                                WEXITED | WSTOPPED | WCONTINUED | WNOHANG);
    if (result != 0 && errno == EINTR) {
      continue;
    }
    if (result != 0 || info.si_pid == 0) {
      return;
    }
    if (info.si_code == CLD_STOPPED) {
      watch_.stopped();
    } else if (info.si_code != CLD_CONTINUED) {
      on_child_ended(info.si_code, info.si_status);
      return;
    }
  }
}

void Supervisor::on_child_ended(int code, int wait_status) {
  read_channel();
  channel_.reset();
  const pid_t ended = std::exchange(child_, -1);
  if (code == CLD_EXITED && wait_status == 0) {
    over_ = true;
    return;
  }
  const std::string how = code == CLD_EXITED
                              ? "exit status " + std::to_string(wait_status)
                              : std::string("signal ") + ::strsignal(wait_status);
  if (kill_at_ns_ != 0) {
    log_.warn("process {} ended with {} instead of cleanly", ended, how);
    over_ = true;
    return;
  }
  const bool killed = code == CLD_KILLED && wait_status == SIGKILL;
  killed_early_ = killed && !serving_ ? killed_early_ + 1 : 0;
  if ((!killed && too_many_deaths()) || killed_early_ >= kKilledEarlyMax) {
    log_.critical("process {} ended with {}, one of too many: giving up; attached processes get "
                  "CoordinatorLost",
                  ended, how);
    over_ = true;
    status_ = 1;
    return;
  }
  log_.warn("process {} ended with {} and is replaced", ended, how);
}

bool Supervisor::too_many_deaths() {
  const std::uint64_t now = shm::monotonic_ns();
  deaths_ns_[deaths_ % kDeathsMax] = now;
  ++deaths_;
  // The next to be overwritten is the oldest.
  return deaths_ >= kDeathsMax && now - deaths_ns_[deaths_ % kDeathsMax] < kDeathWindowNs;
}

// -------------------------------------------------------------------------------------- messages

void Supervisor::read_channel() {
  while (channel_) {
    shm::Received received = shm::receive_control(channel_.get());
    if (received.what == shm::Received::What::kNothing) {
      return;
    }
    if (received.what == shm::Received::What::kClosed) {
      channel_.reset();  // its end follows
      return;
    }
    on_message(std::move(received));
  }
}

void Supervisor::on_message(shm::Received received) {
  if (received.what == shm::Received::What::kDamaged) {
    log_.error("process {} sent garbage ({}) and is replaced", child_, received.why);
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
    }
    return;
  }
  if (received.what == shm::Received::What::kNoRoom) {
    if (const auto* turned_away = std::get_if<shm::Admitted>(&received.message)) {
      shm::send_control(channel_.get(), shm::Acknowledged{turned_away->tenancy, false});
    }
    return;
  }
  if (std::holds_alternative<shm::Ready>(received.message)) {
    serving_ = true;
    announce();
  } else if (const auto* admitted = std::get_if<shm::Admitted>(&received.message)) {
    enter(*admitted, std::move(received.fds));
  } else if (const auto* welcomed = std::get_if<shm::Welcomed>(&received.message)) {
    if (RosterEntry* entry = find(welcomed->tenancy)) {
      entry->welcomed = true;
    }
  } else if (const auto* detached = std::get_if<shm::Detached>(&received.message)) {
    if (RosterEntry* entry = find(detached->tenancy)) {
      entry->detached = true;
    }
  } else if (const auto* adopted = std::get_if<shm::Adopted>(&received.message)) {
    if (RosterEntry* entry = find(adopted->tenancy); entry != nullptr && entry->spare) {
      entry->pid = adopted->pid;
      entry->start_time = adopted->start_time;
      entry->pidfd = std::move(received.fds.front());
    }
  } else if (const auto* dropped = std::get_if<shm::Dropped>(&received.message)) {
    if (find(dropped->tenancy) != nullptr) {
      roster_[dropped->tenancy.slot].reset();
    }
  }
}

void Supervisor::enter(const shm::Admitted& admitted, std::vector<shm::OwnedFd> fds) {
  RosterEntry entry;
  entry.tenancy = admitted.tenancy;
  entry.pid = admitted.pid;
  entry.start_time = admitted.start_time;
  entry.control = std::move(fds[0]);
  entry.spare = fds.size() == 1;
  if (!entry.spare) {
    entry.pidfd = std::move(fds[1]);
  }
  roster_[admitted.tenancy.slot] = std::move(entry);
  shm::send_control(channel_.get(), shm::Acknowledged{admitted.tenancy, true});
}

RosterEntry* Supervisor::find(const shm::Tenancy& tenancy) {
  auto& place = roster_[tenancy.slot];  // below kMaxSlots: checked when decoded
  return place && place->tenancy == tenancy ? &*place : nullptr;
}

void Supervisor::announce() {
  if (std::exchange(announced_, true) || !estate_.starter) {
    return;
  }
  shm::send_control(estate_.starter.get(),
                    shm::Started{static_cast<std::uint32_t>(child_),
                                 static_cast<std::uint32_t>(::getpid())});
  if (!estate_.options.embedded) {
    estate_.starter.reset();
  }
}

}  // namespace theus::coordinator
