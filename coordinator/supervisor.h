// The supervisor: the small process that keeps what a coordinator needs to be restarted, and
// restarts it.
//
// It takes no lock and has no thread, so that there is little in it that could fail, and so that it
// may fork without exec. Of the shared memory it reads one page, and only when it was alarmed
// (child_watch.h).
//
// Thread safety: one thread; the process must have no other.
#pragma once

#include <spdlog/logger.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>

#include "coordinator/child_watch.h"
#include "coordinator/estate.h"
#include "coordinator/roster.h"
#include "shm/control_channel.h"
#include "shm/layout.h"
#include "shm/owned_fd.h"

namespace theus::coordinator {

class Supervisor {
 public:
  // So many children that die within so long are enough. Being killed (SIGKILL) is no fault of
  // theirs, unless none ever gets to serve: then the machine may be out of memory.
  static constexpr std::size_t kDeathsMax = 5;
  static constexpr std::uint64_t kDeathWindowNs = 10'000'000'000;
  static constexpr std::uint32_t kKilledEarlyMax = 50;  // in a row

  Supervisor(Estate& estate, spdlog::logger& log);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // What a child starts with.
  struct Child {
    Roster roster;
    shm::OwnedFd channel;
  };
  // Returns once in the supervisor (nullopt: all is over; status() says how), and once in each
  // child. Throws std::system_error in the supervisor only.
  std::optional<Child> run();
  int status() const { return status_; }

 private:
  bool start_child();  // true in the child
  void watch_over();   // until the child has ended
  void on_signal(int number);
  void on_child_changed();
  void on_child_ended(int code, int wait_status);
  bool too_many_deaths();
  void read_channel();
  void on_message(shm::Received received);
  void enter(const shm::Admitted& admitted, std::vector<shm::OwnedFd> fds);
  RosterEntry* find(const shm::Tenancy& tenancy);
  void announce();
  void begin_stop(int number);
  int poll_timeout_ms() const;
  void reset_for_child();
  Roster roster_copy();

  Estate& estate_;
  spdlog::logger& log_;
  shm::OwnedFd signals_;
  shm::OwnedFd channel_;
  shm::OwnedFd child_channel_;
  pid_t child_ = -1;
  // One place for each slot, made before anything can fail for want of memory.
  std::vector<std::optional<RosterEntry>> roster_;
  std::array<std::uint64_t, kDeathsMax> deaths_ns_{};  // a ring
  std::size_t deaths_ = 0;
  std::uint32_t killed_early_ = 0;
  std::uint64_t kill_at_ns_ = 0;   // 0: no stop is under way
  ChildWatch watch_;
  bool serving_ = false;  // the child has said that it is ready
  bool announced_ = false;
  bool over_ = false;
  int status_ = 0;
};

}  // namespace theus::coordinator
