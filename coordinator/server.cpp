#include "coordinator/server.h"

#include <signal.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/process_setup.h"
#include "coordinator/signals.h"
#include "shm/control_channel.h"
#include "shm/hello.h"
#include "shm/process.h"

namespace theus::coordinator {
namespace {

// How long a hold of the lock is waited for before the holder is suspected of being stuck.
constexpr std::uint64_t kPatienceNs = 10'000'000;
// After a hold the lock is left to the workers for as long as the hold took, and for this at least:
// a mutex is not fair, and one who takes it in a loop keeps the others out.
constexpr std::uint64_t kRestNs = 50'000;

// Readable when an open file of the memory is closed for good: every process that we let in shares
// ours, so it is one of a forked child (Space::mark_process).
shm::OwnedFd watch_closings(int memory) {
  shm::OwnedFd watch(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const std::string path = "/proc/self/fd/" + std::to_string(memory);
  if (watch && ::inotify_add_watch(watch.get(), path.c_str(), IN_CLOSE) < 0) {
    watch.reset();
  }
  return watch;
}

}  // namespace

Server::Server(const Estate& estate, Roster roster, shm::OwnedFd channel, spdlog::logger& log)
    : estate_(estate),
      log_(log),
      supervisor_pid_(static_cast<std::uint32_t>(::getppid())),
      space_(estate.segments, shm::Access::kWorker),
      arbiter_(space_, shm::kNoSlot),
      pool_(space_, arbiter_, estate.options.pool, log, shm::monotonic_ns()),
      janitor_(space_, arbiter_, pool_,
               {.surveyed = [this](const auto& occupied) { on_surveyed(occupied); },
                .admitted =
                    [this](const Janitor::Applicant& applicant, auto tenancy) {
                      applicant.spare ? on_spare_leased(applicant.guest, tenancy)
                                      : on_admitted(applicant.guest, tenancy);
                    },
                .evicted = [this](shm::Tenancy tenancy) { on_evicted(tenancy); },
                .idle = [this] { bell_.listen(); }}),
      census_(loop_, log, budget_,
              {.gone = [this](const Member& member) { janitor_.evict(member.entry.tenancy); },
               .detached =
                   [this](const Member& member) {
                     supervisor_.send(shm::Detached{member.entry.tenancy});
                   },
               .something_ended = [this] { janitor_.look(); },
               .stuck = [this](std::uint64_t sequence) { fence_.report(sequence); },
               .reserve =
                   [this](const Member& member, shm::OwnedFd socket, bool copy) {
                     on_reserve(member, std::move(socket), copy);
                   },
               .adopted =
                   [this](const Member& member) {
                     supervisor_.send(shm::Adopted{member.entry.tenancy, member.entry.pid,
                                                   member.entry.start_time});
                   },
               .maps_us =
                   [this](std::uint32_t pid) {
                     return shm::maps_file(pid, estate_.segments.desks);
                   },
               .has_left =
                   [this](const Member& member) {
                     // Written by the member alone. Whatever stands here can cost nobody else
                     // anything: its socket is closed.
                     const shm::Tenancy& tenancy = member.entry.tenancy;
                     return space_.desk(tenancy.slot).leaving.load(std::memory_order_acquire) ==
                            tenancy.admission;
                   }}),
      fence_(loop_, arbiter_, census_, log),
      supervisor_(loop_, std::move(channel), census_,
                  {.acknowledged = [this](const auto& message) { on_acknowledged(message); },
                   .lost = [this] { on_supervisor_lost(); }}),
      reception_(loop_, estate.listener.get(), shm::own_identity(), log, budget_,
                 {.worker =
                      [this](Reception::GuestId id, const Guest& guest) {
                        janitor_.admit({id, guest.credentials.pid, guest.identity.start_time,
                                        false, std::nullopt});
                      },
                  .observer = [this](const Guest& guest) { welcome_observer(guest); },
                  .stop_requested = [this](const Guest& guest) { on_stop_request(guest); }}),
      bell_(space_),
      rest_(loop_, [] {}),
      pool_timer_(loop_, [this] { pool_.look(shm::monotonic_ns()); }),
      closings_(watch_closings(estate.segments.data_writable)),
      signals_(open_signals({SIGTERM, SIGINT, SIGHUP})) {
  bell_ticket_ = loop_.watch(bell_.fd(), [this] {
    bell_.answer();
    janitor_.reclaim();
  });
  signal_ticket_ = loop_.watch(signals_.get(), [this] { on_signal(); });
  if (closings_) {
    closings_ticket_ = loop_.watch(closings_.get(), [this] { on_memory_closed(); });
  } else {
    log_.warn("no inotify: slots of forked children that execute another program come back when "
              "these end ({})", std::strerror(errno));
  }
  if (estate.options.embedded && estate.starter) {
    lifeline_ = true;
    lifeline_ticket_ = loop_.watch(estate.starter.get(), [this] { on_lifeline(); });
  }
  inherit(std::move(roster));
}

Server::~Server() {
  loop_.forget(&bell_ticket_);
  loop_.forget(&signal_ticket_);
  loop_.forget(&closings_ticket_);
  loop_.forget(&lifeline_ticket_);
}

void Server::run() {
  while (!stopping_) {
    time_pool();
    loop_.run_once(may_wait_ms());
    if (!stopping_ && (janitor_.urgent() ||
                       (janitor_.wants_lock() && shm::monotonic_ns() >= rest_until_ns_))) {
      hold_lock();
    }
    if (!stopping_) {
      end_if_unused();
    }
  }
  reception_.close();
  census_.for_each([](Member& member) {
    ::shutdown(member.entry.control.get(), SHUT_RDWR);  // the supervisor has copies
  });
  if (supervisor_.alone()) {
    estate_.remove_files();
  }
}

// How long nothing but events can give cause to do something.
int Server::may_wait_ms() {
  if (!janitor_.wants_lock() || fence_.looking()) {
    return -1;  // the fence's timer sets the pace of trying
  }
  if (janitor_.urgent() || shm::monotonic_ns() >= rest_until_ns_) {
    return 0;
  }
  rest_.at(rest_until_ns_);
  return -1;
}

void Server::time_pool() {
  if (pool_.due_ns() == pool_due_ns_) {
    return;
  }
  pool_due_ns_ = pool_.due_ns();
  if (pool_due_ns_ == Pool::kNever) {
    pool_timer_.stop();
  } else {
    pool_timer_.at(pool_due_ns_);
  }
}

void Server::hold_lock() {
  const std::uint64_t start = shm::monotonic_ns();
  if (janitor_.hold(fence_.looking() ? 0 : kPatienceNs)) {
    fence_.clear();
  } else {
    fence_.suspect();
  }
  const std::uint64_t end = shm::monotonic_ns();
  rest_until_ns_ = end + std::max(end - start, kRestNs);
}

// --------------------------------------------------------------------------- from a predecessor

void Server::inherit(Roster roster) {
  for (RosterEntry& entry : roster) {
    used_ = true;
    census_.add(std::move(entry)).acknowledged = true;
  }
}

void Server::on_surveyed(const std::vector<Janitor::Occupied>& occupied) {
  std::vector<bool> mine(shm::kMaxSlots, false);
  for (const Janitor::Occupied& slot : occupied) {
    const Member* member = census_.find(slot.tenancy.slot);
    if (member != nullptr && member->entry.tenancy == slot.tenancy) {
      mine[slot.tenancy.slot] = true;
      if (slot.leaving) {
        janitor_.evict(slot.tenancy);
      }
    } else {
      // Admitted by a predecessor that died before the supervisor knew: it was never welcomed.
      log_.info("slot {} was given to a process that was never told so", slot.tenancy.slot);
      janitor_.evict(slot.tenancy);
    }
  }
  // Entries whose eviction was finished and not reported, or that never came to be.
  std::vector<shm::Tenancy> outdated;
  census_.for_each([&](Member& member) {
    if (!mine[member.entry.tenancy.slot]) {
      outdated.push_back(member.entry.tenancy);
    } else if (!member.entry.welcomed) {
      welcome(member);  // perhaps for the second time: then it takes no notice
    }
  });
  for (const shm::Tenancy& tenancy : outdated) {
    drop(tenancy);
  }
  supervisor_.send(shm::Ready{});
  log_.info("serving {} with {} attached, {} MiB", estate_.options.name, census_.workers(),
            space_.capacity_bytes() >> 20);
}

// ----------------------------------------------------------------------------------- admission

void Server::on_admitted(Reception::GuestId id, std::optional<shm::Tenancy> tenancy) {
  std::optional<Guest> guest = reception_.take(id);
  if (!guest) {  // dismissed meanwhile, which a verified guest is only at the end
    if (tenancy) {
      janitor_.evict(*tenancy);
    }
    return;
  }
  if (!tenancy) {
    log_.warn("refused process {}: all {} slots are taken", guest->credentials.pid,
              shm::kMaxWorkers);
    shm::send_control(guest->socket.get(),
                      shm::Refusal{shm::Reason::kFull, "all " + std::to_string(shm::kMaxWorkers) +
                                                           " slots of the coordinator are taken"});
    return;
  }
  RosterEntry entry;
  entry.tenancy = *tenancy;
  entry.pid = guest->credentials.pid;
  entry.start_time = guest->identity.start_time;
  entry.control = std::move(guest->socket);
  entry.pidfd = std::move(guest->pidfd);
  used_ = true;
  enter(std::move(entry));
}

// A spare slot takes the same way, with a socket instead of a guest. Where it ends, the socket is
// closed: the worker sees that it has none.
void Server::on_reserve(const Member& member, shm::OwnedFd socket, bool copy) {
  if (short_of_descriptors(socket.get())) {
    return;
  }
  Janitor::Applicant applicant;
  applicant.guest = ++last_reservation_;
  applicant.spare = true;
  if (copy) {
    applicant.copy_of = member.entry.tenancy;
  }
  reservations_.emplace(applicant.guest, std::move(socket));
  janitor_.admit(applicant);
}

void Server::on_spare_leased(std::uint64_t reservation, std::optional<shm::Tenancy> tenancy) {
  auto found = reservations_.extract(reservation);
  if (!tenancy) {
    return;
  }
  RosterEntry entry;
  entry.tenancy = *tenancy;
  entry.control = std::move(found.mapped());
  entry.spare = true;
  enter(std::move(entry));
}

void Server::enter(RosterEntry entry) {
  Member& member = census_.add(std::move(entry));
  if (supervisor_.alone()) {
    welcome(member);
    return;
  }
  supervisor_.send(
      shm::Admitted{member.entry.tenancy, member.entry.pid, member.entry.start_time});
}

void Server::on_acknowledged(const shm::Acknowledged& acknowledged) {
  Member* member = census_.find(acknowledged.tenancy.slot);
  if (member == nullptr || member->entry.tenancy != acknowledged.tenancy || member->gone ||
      member->acknowledged) {
    return;
  }
  if (acknowledged.accepted) {
    welcome(*member);
    return;
  }
  log_.warn("refused process {}: the supervisor has no descriptors left", member->entry.pid);
  shm::send_control(member->entry.control.get(),
                    shm::Refusal{shm::Reason::kFull, "the coordinator has no descriptors left"});
  ::shutdown(member->entry.control.get(), SHUT_RDWR);
  // It was never told of its slot, so it need not have ended.
  member->gone = true;
  janitor_.evict(member->entry.tenancy);
}

shm::Welcome Server::welcome_text(std::uint32_t slot) const {
  return {slot, static_cast<std::uint32_t>(::getpid()), supervisor_pid_,
          space_.capacity_bytes()};
}

void Server::welcome(Member& member) {
  member.acknowledged = true;
  const shm::SegmentFds& segments = estate_.segments;
  const int socket = member.entry.control.get();
  const shm::Sent sent =
      member.entry.spare
          ? shm::send_control(socket, shm::Reserved{member.entry.tenancy})
          : shm::send_control(socket, welcome_text(member.entry.tenancy.slot),
                              {segments.data_writable, segments.data_readable, segments.desks});
  // If it has gone the census finds out.
  if (sent == shm::Sent::kYes) {
    member.entry.welcomed = true;
    supervisor_.send(shm::Welcomed{member.entry.tenancy});
    if (!member.entry.spare) {
      log_.info("process {} has slot {}", member.entry.pid, member.entry.tenancy.slot);
    }
  }
}

void Server::welcome_observer(const Guest& guest) {
  shm::send_control(guest.socket.get(), welcome_text(0),
                    {estate_.segments.data_readable, estate_.desks_readable.get()});
  log_.debug("process {} observes", guest.credentials.pid);
}

// ------------------------------------------------------------------------------------- leaving

void Server::on_evicted(shm::Tenancy tenancy) {
  const Member* member = census_.find(tenancy.slot);
  if (member == nullptr || !member->entry.spare) {
    log_.info("slot {} is free again", tenancy.slot);
  }
  drop(tenancy);
}

void Server::drop(shm::Tenancy tenancy) {
  const Member* member = census_.find(tenancy.slot);
  if (member != nullptr && member->entry.tenancy == tenancy) {
    supervisor_.send(shm::Dropped{tenancy});
    census_.remove(tenancy.slot);
  }
}

void Server::on_supervisor_lost() {
  log_.error("the supervisor (process {}) is gone; serving on alone, without anybody to restart it",
             supervisor_pid_);
  supervisor_pid_ = 0;
  estate_.sign();
  census_.for_each([this](Member& member) {
    if (!member.acknowledged && !member.gone) {
      welcome(member);
    }
  });
}

// -------------------------------------------------------------------------------------- ending

void Server::on_stop_request(const Guest& guest) {
  const shm::OwnedFd self = shm::open_pidfd(static_cast<std::uint32_t>(::getpid()));
  shm::OwnedFd above;
  if (!supervisor_.alone() && static_cast<std::uint32_t>(::getppid()) == supervisor_pid_) {
    above = shm::open_pidfd(supervisor_pid_);
  }
  const std::array<int, 2> fds = {self.get(), above.get()};
  shm::send_control(guest.socket.get(), shm::Stopping{},
                    std::span(fds).first(above ? 2u : 1u));
  stop("process " + std::to_string(guest.credentials.pid) + " asked for it");
}

void Server::on_signal() {
  if (const int number = next_signal(signals_); number != 0) {
    stop(std::string("signal ") + ::strsignal(number));
  }
}

void Server::on_lifeline() {
  // The starter has nothing to say, so whatever comes is read away.
  if (shm::receive_control(estate_.starter.get()).what == shm::Received::What::kClosed) {
    loop_.forget(&lifeline_ticket_);
    lifeline_ = false;
  }
}

void Server::on_memory_closed() {
  alignas(inotify_event) std::array<char, 4096> events;
  while (::read(closings_.get(), events.data(), events.size()) > 0) {
  }
  census_.look_again();
}

void Server::end_if_unused() {
  const bool expected = used_ || estate_.starter;  // else nobody has come yet
  if (!estate_.options.embedded || lifeline_ || !expected || !janitor_.surveyed()) {
    return;
  }
  // Forked children that only hold views need nobody: what they see is theirs until they end.
  if (census_.workers() > 0 || !reception_.empty()) {
    return;
  }
  // Whoever is in the queue now is served; whoever comes later finds the connection closed and
  // starts another coordinator.
  reception_.accept_waiting();
  if (reception_.empty()) {
    stop("nobody uses it any more");
  }
}

void Server::stop(const std::string& why) {
  if (!stopping_) {
    log_.info("ending: {}", why);
    stopping_ = true;
  }
}

}  // namespace theus::coordinator
