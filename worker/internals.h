// What a Session is made of. Included by worker/*.cpp only.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "shm/arbiter.h"
#include "shm/pins.h"
#include "worker/ends.h"
#include "worker/inheritance.h"
#include "worker/session.h"
#include "worker/stock.h"
#include "worker/turns.h"

namespace theus::worker {

// A word that reads 1 in the process that made it and 0 in every child forked from it, until the
// child says that what it inherits is pinned by a slot of its own.
class ForkGuard {
 public:
  ForkGuard();
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;
  bool forked() const { return *word_ != kOwn; }
  bool keeps_views() const { return *word_ != 0; }
  void become_heir() { *word_ = kHeir; }

 private:
  static constexpr std::uint32_t kOwn = 1, kHeir = 2;
  volatile std::uint32_t* word_;
};

class PrivateView;

// Whose pin it is: a child inherits its parent's snapshots, and not its transactions.
enum class PinUser : std::uint8_t { kTransaction, kSnapshot };

inline constexpr std::size_t kValidateAbove = 1000;
// What one hold of the arbitration lock decides for others.
inline constexpr std::uint32_t kDeltasPerHold = 64;
// One wait, for the time of its life.
class Waiting {
 public:
  explicit Waiting(WaitHook* hook)
      : hook_(hook), token_(hook != nullptr ? hook->before() : nullptr) {}
  ~Waiting() {
    if (hook_ != nullptr) hook_->after(token_, false);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

  // Ends it before its time, and throws if the hook wants to.
  void end() {
    WaitHook* hook = std::exchange(hook_, nullptr);
    if (hook != nullptr) hook->after(token_, true);
  }

 private:
  WaitHook* hook_;
  void* token_;
};

struct Session::Internals {
  Internals(Attachment made, std::shared_ptr<const shm::Space> mapped);
  ~Internals();

  // One pin serves every snapshot of this process that reads the same version.
  struct SharedPin {
    std::uint64_t version = 0;
    std::uint32_t users = 0;
    std::uint32_t snapshots = 0;  // among them
  };
  std::uint32_t take_pin(std::uint64_t* version, PinUser user);  // throws Error: none left
  void release_pin(std::uint32_t pin, PinUser user);
  void release_block_pin(std::uint32_t handle);  // block_pin_mutex is held

  // Throws CoordinatorLost once `lost`.
  void require_place() const;

  // Takes the arbitration lock, however long it takes a stuck owner to be removed. Throws
  // CoordinatorLost if nobody removes it, and, where it may be given up, what the wait hook throws,
  // and CoordinatorLost if another thread has found that our place is lost.
  // While it waits other threads may use the session: look again at what it has.
  void lock(OnSignal on_signal);

  Attachment attachment;
  std::shared_ptr<const shm::Space> shared_space;
  const shm::Space& space;
  shm::Arbiter arbiter;
  shm::Pins pins;
  shm::SlotRecord* slot_record;  // readable address: written by the lock owner
  shm::Desk* desk;
  Stock stock;
  ForkGuard fork_guard;
  std::vector<SharedPin> shared_pins;
  std::uint32_t newest_pin = 0;
  std::uint64_t sequence;   // of the newest submission
  std::uint32_t admission;  // tells our stay in the slot from others
  WaitHook* wait_hook = nullptr;
  std::mutex submission_mutex;  // one submission at a time from this process
  Turns turns{*this};
  std::mutex block_pin_mutex;
  std::vector<std::uint32_t> free_block_pins;
  std::uint32_t block_pins_high = 0;
  Ends ends;
  PrivateView* private_views = nullptr;  // the first of a list
  // Larger read sets are validated here instead of under the lock (validate.h).
  std::size_t validate_above = kValidateAbove;
  // For tests: lets others act between validation and arbitration.
  std::function<void()> before_request;
  // The slot may be somebody else's, or a submission may still be decided: nothing shared may be
  // touched any more; eviction takes everything back.
  bool lost = false;
  Inheritance inheritance;
};

}  // namespace theus::worker
