#include "coordinator/supervisor_link.h"

#include <array>
#include <span>
#include <utility>

#include "shm/control_channel.h"

namespace theus::coordinator {
namespace {

constexpr std::uint64_t kRetryNs = 10'000'000;
constexpr int kMessagesPerEvent = 32;

}  // namespace

SupervisorLink::SupervisorLink(EventLoop& loop, shm::OwnedFd channel, Census& census,
                               Callbacks callbacks)
    : loop_(loop),
      channel_(std::move(channel)),
      census_(census),
      callbacks_(std::move(callbacks)),
      retry_(loop, [this] { flush(); }) {
  ticket_ = loop_.watch(channel_.get(), [this] { on_message(); });
}

SupervisorLink::~SupervisorLink() { loop_.forget(&ticket_); }

void SupervisorLink::send(const shm::ControlMessage& message) {
  if (!channel_) {
    return;
  }
  outbox_.push_back(message);
  flush();
}

void SupervisorLink::flush() {
  while (!outbox_.empty() && channel_) {
    const shm::ControlMessage& message = outbox_.front();
    std::array<int, 2> fds{};
    std::span<const int> sent_along;
    if (const auto* admitted = std::get_if<shm::Admitted>(&message)) {
      // The member's own descriptors, read only now: one that has gone meanwhile needs no entry.
      const Member* member = census_.find(admitted->tenancy.slot);
      if (member == nullptr || member->entry.tenancy != admitted->tenancy) {
        outbox_.pop_front();
        continue;
      }
      fds = {member->entry.control.get(), member->entry.pidfd.get()};
      // A spare slot comes without a process; that is told when it is adopted.
      sent_along = std::span(fds).first(member->entry.spare ? 1u : 2u);
    } else if (const auto* adopted = std::get_if<shm::Adopted>(&message)) {
      const Member* member = census_.find(adopted->tenancy.slot);
      if (member == nullptr || member->entry.tenancy != adopted->tenancy) {
        outbox_.pop_front();
        continue;
      }
      fds = {member->entry.pidfd.get()};
      sent_along = std::span(fds).first(1u);
    }
    switch (shm::send_control(channel_.get(), message, sent_along)) {
      case shm::Sent::kYes:
        outbox_.pop_front();
        break;
      case shm::Sent::kFull:
        retry_.at(shm::monotonic_ns() + kRetryNs);
        return;
      case shm::Sent::kGone:
        return;  // on_message() will find out
    }
  }
}

void SupervisorLink::on_message() {
  for (int i = 0; i < kMessagesPerEvent && channel_; ++i) {
    const shm::Received received = shm::receive_control(channel_.get());
    if (received.what == shm::Received::What::kNothing) {
      return;
    }
    if (received.what == shm::Received::What::kClosed) {
      lose();
      return;
    }
    if (const auto* acknowledged = std::get_if<shm::Acknowledged>(&received.message);
        received.what == shm::Received::What::kMessage && acknowledged != nullptr) {
      callbacks_.acknowledged(*acknowledged);
    }
  }
}

void SupervisorLink::lose() {
  loop_.forget(&ticket_);
  channel_.reset();
  outbox_.clear();
  retry_.stop();
  callbacks_.lost();
}

}  // namespace theus::coordinator
