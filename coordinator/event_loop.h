// The coordinator's event loop: epoll, with a function for each descriptor, and timers.
//
// Thread safety: one thread at a time, the one that runs it.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "shm/owned_fd.h"

namespace theus::coordinator {

// Resource type. Descriptors are watched by tickets that are never used twice, not by number: a
// number may belong to another file by the time an event is delivered.
class EventLoop {
 public:
  using Ticket = std::uint64_t;  // 0: none
  using Handler = std::function<void()>;

  EventLoop();  // throws std::system_error
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `handler` whenever `fd` can be read, is at end of file or in error, until forget(). Level
  // triggered. Throws std::system_error.
  Ticket watch(int fd, Handler handler);
  // To be called before the descriptor is closed: epoll watches open files, and a copy of this one
  // in the supervisor would keep it on the list. Sets the ticket to 0; 0 is ignored.
  void forget(Ticket* ticket);

  // Waits for events at most `timeout_ms` (-1: for ever) and calls their handlers, a bounded
  // number. Handlers may watch and forget as they like.
  void run_once(int timeout_ms);

 private:
  struct Watch {
    int fd;
    Handler handler;
  };
  shm::OwnedFd epoll_;
  Ticket last_ = 0;
  std::map<Ticket, std::shared_ptr<Watch>> watches_;
};

// Calls a function at intervals, or once. Late calls are not made up for: a process that was
// stopped for a minute gets one.
class Timer {
 public:
  Timer(EventLoop& loop, EventLoop::Handler handler);  // throws std::system_error
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void every(std::uint64_t interval_ns);
  void at(std::uint64_t monotonic_ns);  // once
  void stop();

 private:
  void set(std::uint64_t value_ns, std::uint64_t interval_ns, int flags);

  EventLoop& loop_;
  shm::OwnedFd fd_;
  EventLoop::Ticket ticket_ = 0;
};

}  // namespace theus::coordinator
