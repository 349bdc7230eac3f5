#include "coordinator/census.h"

#include <sys/socket.h>

#include <utility>

#include "shm/process.h"

namespace theus::coordinator {
namespace {

// Read from one member between two looks at everybody else.
constexpr int kMessagesPerEvent = 8;

}  // namespace

Census::Census(EventLoop& loop, spdlog::logger& log, LogBudget& budget, Callbacks callbacks)
    : loop_(loop), log_(log), budget_(budget), callbacks_(std::move(callbacks)) {}

Census::~Census() {
  for (std::uint32_t slot = 0; slot < members_.size(); ++slot) {
    remove(slot);
  }
}

Member& Census::add(RosterEntry entry) {
  const std::uint32_t slot = entry.tenancy.slot;
  members_[slot] = std::make_unique<Member>();
  Member& member = *members_[slot];
  member.entry = std::move(entry);
  ++count_;
  spares_ += member.entry.spare ? 1 : 0;
  member.socket_ticket =
      loop_.watch(member.entry.control.get(), [this, slot] { socket_event(slot); });
  if (member.entry.pidfd) {
    watch_process(member);
  }
  return member;
}

void Census::watch_process(Member& member) {
  const std::uint32_t slot = member.entry.tenancy.slot;
  member.process_ticket =
      loop_.watch(member.entry.pidfd.get(), [this, slot] { process_event(slot); });
}

void Census::remove(std::uint32_t slot) {
  if (members_[slot]) {
    loop_.forget(&members_[slot]->socket_ticket);
    loop_.forget(&members_[slot]->process_ticket);
    spares_ -= members_[slot]->entry.spare ? 1 : 0;
    members_[slot].reset();
    --count_;
  }
}

void Census::socket_event(std::uint32_t slot) {
  Member& member = *members_[slot];  // watched as long as it is there
  for (int i = 0; i < kMessagesPerEvent; ++i) {
    shm::Received received = shm::receive_control(member.entry.control.get());
    if (received.what == shm::Received::What::kNothing) {
      return;
    }
    if (on_message(member, received)) {
      continue;
    }
    if (received.what != shm::Received::What::kClosed && budget_.spend(log_)) {
      log_.warn("process {} (slot {}) sent {} on its control socket, which is closed now",
                member.entry.pid, slot,
                received.what == shm::Received::What::kMessage
                    ? shm::control_name(received.message)
                    : received.why.c_str());
    }
    // Its slot stays until its process has ended: it may still be writing.
    close_socket(member);
    return;
  }
}

// False: nothing that a member of this kind may say.
bool Census::on_message(Member& member, shm::Received& received) {
  const bool reserve = std::holds_alternative<shm::Reserve>(received.message);
  const bool adoption = std::holds_alternative<shm::Adopt>(received.message) &&
                        member.entry.spare && !member.entry.pidfd;
  if (received.what == shm::Received::What::kNoRoom && (reserve || adoption)) {
    // We are out of descriptors. Its end of the socket pair is at end of file: it has no spare
    // slot; or the slot goes on living by its socket alone.
    return true;
  }
  if (received.what != shm::Received::What::kMessage) {
    return false;
  }
  if (std::holds_alternative<shm::Detach>(received.message)) {
    member.entry.detached = true;
    callbacks_.detached(member);
    return true;
  }
  if (reserve) {
    callbacks_.reserve(member, std::move(received.fds.front()),
                       std::get<shm::Reserve>(received.message).copy);
    return true;
  }
  if (adoption) {
    adopt(member, std::move(received.fds.front()));
    return true;
  }
  const auto* stuck = std::get_if<shm::Stuck>(&received.message);
  if (stuck == nullptr || member.entry.spare) {
    return false;
  }
  callbacks_.stuck(stuck->sequence);
  return true;
}

void Census::adopt(Member& member, shm::OwnedFd pidfd) {
  const auto pid = shm::pid_of_pidfd(pidfd.get());
  const auto started = pid ? shm::start_time(*pid) : std::nullopt;
  if (!started) {
    return;  // it has ended already: end of file follows. Or no pidfd: the sender's loss
  }
  member.entry.pid = *pid;
  member.entry.start_time = *started;
  member.entry.pidfd = std::move(pidfd);
  watch_process(member);
  callbacks_.adopted(member);
}

void Census::process_event(std::uint32_t slot) {
  Member& member = *members_[slot];
  loop_.forget(&member.process_ticket);
  member.process_ended = true;
  callbacks_.something_ended();
  settle(member);
}

void Census::close_socket(Member& member) {
  loop_.forget(&member.socket_ticket);
  // Not close(): the supervisor's copy would keep the connection up.
  ::shutdown(member.entry.control.get(), SHUT_RDWR);
  member.socket_closed = true;
  callbacks_.something_ended();
  settle(member);
}

void Census::look_again() {
  for_each([this](Member& member) { settle(member); });
}

void Census::settle(Member& member) {
  if (!member.socket_closed || member.gone) {
    return;
  }
  const RosterEntry& entry = member.entry;
  const char* how = nullptr;
  if (member.process_ended) {
    how = "has ended";
  } else if (entry.detached || callbacks_.has_left(member)) {
    how = "has detached";
  } else if (entry.spare && !entry.pidfd) {
    how = "was not needed";
  } else if (entry.spare && callbacks_.maps_us(entry.pid) == false) {
    // The kernel replaces the memory first and closes the socket then, so what is mapped now tells
    // exec from a mere close.
    how = "runs another program";
  }
  if (how != nullptr) {
    member.gone = true;
    log_.log(entry.spare ? spdlog::level::debug : spdlog::level::info, "process {} (slot {}) {}",
             entry.pid, entry.tenancy.slot, how);
    callbacks_.gone(member);
  }
}

}  // namespace theus::coordinator
