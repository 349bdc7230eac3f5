// The bell: a thread that sleeps on the backlog word and wakes the event loop when the janitor is
// wanted. Epoll cannot wait for a word of shared memory.
//
// Invariants: 1. The thread touches nothing but the backlog word and its own descriptor. 2. After a
// ring it does not ring again before listen() is called, so a long queue of work makes no storm.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "shm/owned_fd.h"
#include "shm/space.h"

namespace theus::coordinator {

class Bell {
 public:
  // Starts the thread. Throws std::system_error.
  explicit Bell(const shm::Space& space);
  ~Bell();  // ends the thread; takes up to kPaceNs
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;

  int fd() const { return fd_.get(); }  // readable after a ring
  void answer();                        // makes fd() unreadable again
  void listen();                        // the work is done: ring at the next

  // How long the thread sleeps before it looks whether it should end.
  static constexpr std::uint64_t kPaceNs = 1'000'000'000;

 private:
  void run();

  const shm::Space& space_;
  shm::OwnedFd fd_;
  std::atomic<bool> ending_{false};
  std::atomic<bool> listening_{true};
  std::thread thread_;
};

}  // namespace theus::coordinator
