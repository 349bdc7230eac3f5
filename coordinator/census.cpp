#include "coordinator/census.h"

#include <sys/socket.h>

#include <utility>

#include "shm/control_channel.h"

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
  member.socket_ticket =
      loop_.watch(member.entry.control.get(), [this, slot] { socket_event(slot); });
  member.process_ticket =
      loop_.watch(member.entry.pidfd.get(), [this, slot] { process_event(slot); });
  return member;
}

void Census::remove(std::uint32_t slot) {
  if (members_[slot]) {
    loop_.forget(&members_[slot]->socket_ticket);
    loop_.forget(&members_[slot]->process_ticket);
    members_[slot].reset();
    --count_;
  }
}

void Census::socket_event(std::uint32_t slot) {
  Member& member = *members_[slot];  // watched as long as it is there
  for (int i = 0; i < kMessagesPerEvent; ++i) {
    const shm::Received received = shm::receive_control(member.entry.control.get());
    if (received.what == shm::Received::What::kNothing) {
      return;
    }
    if (received.what == shm::Received::What::kMessage) {
      if (std::holds_alternative<shm::Detach>(received.message)) {
        member.entry.detached = true;
        callbacks_.detached(member);
        continue;
      }
      if (const auto* stuck = std::get_if<shm::Stuck>(&received.message)) {
        callbacks_.stuck(stuck->sequence);
        continue;
      }
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

void Census::settle(Member& member) {
  if (!member.socket_closed || member.gone) {
    return;
  }
  if (member.process_ended || member.entry.detached || callbacks_.has_left(member)) {
    member.gone = true;
    log_.info("process {} (slot {}) {}", member.entry.pid, member.entry.tenancy.slot,
              member.process_ended ? "has ended" : "has detached");
    callbacks_.gone(member);
  }
}

}  // namespace theus::coordinator
