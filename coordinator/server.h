// The coordinator process proper: wires reception, census, janitor and fence together.
//
// Thread safety: one thread; run() is the process's main loop.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/bell.h"
#include "coordinator/census.h"
#include "coordinator/estate.h"
#include "coordinator/event_loop.h"
#include "coordinator/fence.h"
#include "coordinator/janitor.h"
#include "coordinator/log.h"
#include "coordinator/pool.h"
#include "coordinator/reception.h"
#include "coordinator/roster.h"
#include "coordinator/supervisor_link.h"
#include "shm/arbiter.h"
#include "shm/space.h"

namespace theus::coordinator {

class Server {
 public:
  // `roster`: who was admitted by a predecessor. `channel`: to the supervisor. Signals that end the
  // coordinator are blocked already. Throws std::system_error, std::runtime_error.
  Server(const Estate& estate, Roster roster, shm::OwnedFd channel, spdlog::logger& log);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves until it is told to stop or nobody uses it any more. Afterwards every control socket is
  // shut down. The files are removed if there is no supervisor left to do it.
  void run();

 private:
  void inherit(Roster roster);
  void on_surveyed(const std::vector<Janitor::Occupied>& occupied);
  void on_admitted(Reception::GuestId id, std::optional<shm::Tenancy> tenancy);
  void on_reserve(const Member& member, shm::OwnedFd socket, bool copy);
  void on_spare_leased(std::uint64_t reservation, std::optional<shm::Tenancy> tenancy);
  void enter(RosterEntry entry);
  void on_acknowledged(const shm::Acknowledged& acknowledged);
  void on_evicted(shm::Tenancy tenancy);
  void on_supervisor_lost();
  void on_stop_request(const Guest& guest);
  void on_lifeline();
  void on_memory_closed();
  void on_signal();

  void welcome(Member& member);
  void welcome_observer(const Guest& guest);
  shm::Welcome welcome_text(std::uint32_t slot) const;
  void drop(shm::Tenancy tenancy);
  int may_wait_ms();
  void hold_lock();
  void time_pool();
  void end_if_unused();
  void stop(const std::string& why);

  const Estate& estate_;
  spdlog::logger& log_;
  LogBudget budget_;
  std::uint32_t supervisor_pid_;  // 0: gone
  bool lifeline_ = false;         // its other end is still there
  bool used_ = false;             // somebody was admitted
  bool stopping_ = false;
  std::map<std::uint64_t, shm::OwnedFd> reservations_;  // sockets of spare slots not yet leased
  std::uint64_t last_reservation_ = 0;

  EventLoop loop_;
  shm::Space space_;
  shm::Arbiter arbiter_;
  Pool pool_;
  Janitor janitor_;
  Census census_;
  Fence fence_;
  SupervisorLink supervisor_;
  Reception reception_;
  Bell bell_;
  Timer rest_;
  Timer pool_timer_;
  std::uint64_t pool_due_ns_ = Pool::kNever;  // what the timer is set to
  std::uint64_t rest_until_ns_ = 0;
  shm::OwnedFd closings_;  // inotify
  shm::OwnedFd signals_;
  EventLoop::Ticket bell_ticket_ = 0;
  EventLoop::Ticket signal_ticket_ = 0;
  EventLoop::Ticket closings_ticket_ = 0;
  EventLoop::Ticket lifeline_ticket_ = 0;
};

}  // namespace theus::coordinator
