// The reception: connections that have not yet become members (docs/coordinator.md, "Being
// admitted", steps 1 to 5).
//
// Whatever a guest does costs only the guest: it is logged (within a budget) and its connection
// closed. Bounds: kGuestsMax connections, kGuestsPerProcess of one process, kHelloLimitNs each.
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "coordinator/event_loop.h"
#include "coordinator/log.h"
#include "shm/control_channel.h"
#include "shm/control_message.h"
#include "shm/owned_fd.h"

namespace theus::coordinator {

// A connection, and what is known of its other side.
struct Guest {
  shm::OwnedFd socket;
  shm::OwnedFd pidfd;
  shm::PeerCredentials credentials;
  shm::Identity identity;
};

class Reception {
 public:
  using GuestId = std::uint64_t;
  static constexpr std::size_t kGuestsMax = 256;
  static constexpr std::size_t kGuestsPerProcess = 16;
  static constexpr std::uint64_t kHelloLimitNs = 5'000'000'000;

  struct Callbacks {
    // A worker is who it says it is, and waits; take() it when there is an answer.
    std::function<void(GuestId, const Guest&)> worker;
    std::function<void(const Guest&)> observer;        // to be welcomed now; then it is closed
    std::function<void(const Guest&)> stop_requested;  // to be answered now; then it is closed
  };

  Reception(EventLoop& loop, int listener, shm::Identity ours, spdlog::logger& log,
            LogBudget& budget, Callbacks callbacks);
  ~Reception();
  Reception(const Reception&) = delete;
  Reception& operator=(const Reception&) = delete;

  void accept_waiting();  // those in the listener's queue, a bounded number
  std::optional<Guest> take(GuestId id);
  void close();           // accept nobody any more, dismiss everybody
  bool empty() const { return guests_.empty(); }

 private:
  enum class Stage { kHello, kConfirm, kVerified };
  struct Visit {
    Guest guest;
    Stage stage = Stage::kHello;
    shm::Role role = shm::Role::kWorker;
    std::uint64_t number = 0;  // of Proceed
    std::uint64_t deadline_ns = 0;
    EventLoop::Ticket ticket = 0;
  };

  bool accept_one();
  void greet(shm::OwnedFd socket);
  std::optional<shm::Refusal> objection(const shm::OwnedFd& socket,
                                        const shm::PeerCredentials& credentials) const;
  void on_message(GuestId id);
  void on_hello(GuestId id, Visit& visit, shm::Received& received);
  void on_confirmed(GuestId id, Visit& visit);
  void refuse(GuestId id, const shm::Refusal& refusal);
  void dismiss(GuestId id, const std::string& why);  // empty: nothing to log
  void enforce_deadlines();
  void arm_deadline();
  void pause(const char* why);

  EventLoop& loop_;
  const int listener_;
  const shm::Identity ours_;
  spdlog::logger& log_;
  LogBudget& budget_;
  const Callbacks callbacks_;
  EventLoop::Ticket listener_ticket_ = 0;
  // By id, hence by age, hence by deadline.
  std::map<GuestId, Visit> guests_;
  GuestId last_ = 0;
  bool closed_ = false;
  Timer deadline_;
  Timer resume_;
};

}  // namespace theus::coordinator
