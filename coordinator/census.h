// The census: which admitted processes live.
//
// Invariants: 1. A member is gone when its control socket is at end of file and either its process
// has ended (pidfd) or it said that it detaches: in a message, which may have been read by a
// predecessor that died of it, or in its desk. A spare slot also if no process has adopted it, or
// the one that has runs another program now. 2. `gone` is told once for each member, which stays in
// the census until remove().
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "coordinator/event_loop.h"
#include "coordinator/log.h"
#include "coordinator/roster.h"
#include "shm/control_channel.h"
#include "shm/layout.h"

namespace theus::coordinator {

struct Member {
  RosterEntry entry;
  bool acknowledged = false;   // the supervisor has it
  bool socket_closed = false;  // at end of file, or closed by us for what it sent
  bool process_ended = false;
  bool gone = false;
  EventLoop::Ticket socket_ticket = 0;
  EventLoop::Ticket process_ticket = 0;
};

class Census {
 public:
  struct Callbacks {
    std::function<void(const Member&)> gone;
    std::function<void(const Member&)> detached;      // announced; not yet gone
    std::function<void()> something_ended;            // a socket or a process
    std::function<void(std::uint64_t sequence)> stuck;
    // It wants a spare slot with this control socket; `copy`: with the pins of its own.
    std::function<void(const Member&, shm::OwnedFd socket, bool copy)> reserve;
    std::function<void(const Member&)> adopted;        // a spare slot, which has a pidfd now
    // Whether the process has our memory mapped; nullopt: it cannot be told.
    std::function<std::optional<bool>(std::uint32_t pid)> maps_us;
    std::function<bool(const Member&)> has_left;      // asked: does its desk say so?
  };

  Census(EventLoop& loop, spdlog::logger& log, LogBudget& budget, Callbacks callbacks);
  ~Census();
  Census(const Census&) = delete;
  Census& operator=(const Census&) = delete;

  // Starts watching. The slot must be free. Never tells anything from within.
  Member& add(RosterEntry entry);
  void remove(std::uint32_t slot);
  // A process that had our memory has it no longer: perhaps one whose socket was closed before.
  void look_again();

  Member* find(std::uint32_t slot) {
    return slot < members_.size() ? members_[slot].get() : nullptr;
  }
  template <class Condition>
  Member* find_if(Condition condition) {
    for (const auto& member : members_) {
      if (member && condition(*member)) {
        return member.get();
      }
    }
    return nullptr;
  }
  template <class Action>
  void for_each(Action action) {
    for (const auto& member : members_) {
      if (member) {
        action(*member);
      }
    }
  }
  std::uint32_t workers() const { return count_ - spares_; }

 private:
  void socket_event(std::uint32_t slot);
  bool on_message(Member& member, shm::Received& received);
  void adopt(Member& member, shm::OwnedFd pidfd);
  void watch_process(Member& member);
  void process_event(std::uint32_t slot);
  void close_socket(Member& member);
  void settle(Member& member);

  EventLoop& loop_;
  spdlog::logger& log_;
  LogBudget& budget_;
  const Callbacks callbacks_;
  std::array<std::unique_ptr<Member>, shm::kMaxSlots> members_;
  std::uint32_t count_ = 0;
  std::uint32_t spares_ = 0;  // among them
};

}  // namespace theus::coordinator
