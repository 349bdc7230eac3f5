// The coordinator's end of the channel to its supervisor.
//
// A supervisor that is stopped (Ctrl-Z) does not read: then messages wait here, in order, and
// workers that are not yet acknowledged wait with them. Bounded by the members: a few messages
// each.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "coordinator/census.h"
#include "coordinator/event_loop.h"
#include "shm/control_message.h"
#include "shm/owned_fd.h"

namespace theus::coordinator {

class SupervisorLink {
 public:
  struct Callbacks {
    std::function<void(const shm::Acknowledged&)> acknowledged;
    std::function<void()> lost;  // the supervisor is gone; told once
  };
  SupervisorLink(EventLoop& loop, shm::OwnedFd channel, Census& census, Callbacks callbacks);
  ~SupervisorLink();
  SupervisorLink(const SupervisorLink&) = delete;
  SupervisorLink& operator=(const SupervisorLink&) = delete;

  bool alone() const { return !channel_; }
  // Once alone: does nothing.
  void send(const shm::ControlMessage& message);

 private:
  void flush();
  void on_message();
  void lose();

  EventLoop& loop_;
  shm::OwnedFd channel_;
  Census& census_;
  const Callbacks callbacks_;
  EventLoop::Ticket ticket_ = 0;
  Timer retry_;
  std::deque<shm::ControlMessage> outbox_;
};

}  // namespace theus::coordinator
