// What a forked child keeps of its parent's session: the views it inherits (arrays, snapshots),
// under pins of its own. Included by worker/*.cpp only.
//
// A session leases a spare slot in advance and holds its socket. A fork with pins to inherit copies
// them into that slot, under the arbitration lock, and leaves slot and socket to the child, which
// adopts it by sending its pidfd there; the parent asks for the next one. A child that forks again
// cannot take the lock (it has no writable mapping): it asks the coordinator for a slot with the
// pins already copied. Without a slot, the child's mapping is closed (docs/coordinator.md has the
// steps, and what a death at each leaves).
//
// Invariants: 1. Between before_fork() and after_fork_*() no block pin of this process changes
// (block_pin_mutex is held), and by the session's own rule no snapshot opens or closes. 2. A
// process never writes to a desk that is not its own: before the fork guard says "heir", the child
// has let go of the parent's. 3. Nothing is waited for longer than kPatienceNs twice, and nothing
// that needs a lock of the program's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/control_message.h"
#include "shm/fork.h"
#include "shm/known_fd.h"
#include "worker/session.h"

namespace theus::worker {

class Inheritance final : public shm::ForkParticipant {
 public:
  // Waited in full only while supervisor or lock holder are stopped, or the machine is overloaded;
  // then waiting is better than a child that sees nothing. Who is dead is not waited for.
  static constexpr std::uint64_t kPatienceNs = 500'000'000;

  explicit Inheritance(Session::Internals& session) : in_(session) {}
  // Takes part in forks from now on, and asks for the first spare slot without waiting for it.
  void begin();
  // Gives back slot and spare, as far as they are this process's: tells the coordinator, closes.
  void end();

  void before_fork() noexcept override;
  void after_fork_in_parent() noexcept override;
  void after_fork_in_child() noexcept override;

 private:
  bool anything_pinned() const;
  bool ask(bool copy);
  bool obtain(bool copy);
  bool fill();
  void forbid_reading() const noexcept;
  void become_heir() noexcept;

  Session::Internals& in_;
  shm::KnownFd control_;               // of the slot
  shm::KnownFd socket_;                // of the spare slot; none: none has been asked for
  std::optional<shm::Tenancy> spare_;  // once the coordinator has said which it is
  bool filled_ = false;                // it holds the pins: the child may have it
  bool unprotected_ = false;           // there are pins, and no slot for them
  std::vector<std::byte> adopt_;       // the message, encoded: a child may not allocate
};

}  // namespace theus::worker
