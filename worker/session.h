// One process's place in a coordinator: its slot, its mappings, its stock of cells.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "shm/space.h"

namespace theus::worker {

struct Error : std::runtime_error {  // misuse, or damage found in shared memory
  using std::runtime_error::runtime_error;
};
struct CapacityError : Error {
  using Error::Error;
};
struct CoordinatorLost : Error {
  using Error::Error;
};
struct CommitUnknown
    : Error {  // submitted, and no answer to be had: it may or may not have happened
  using Error::Error;
};
struct CoordinatorNotFound : Error {
  using Error::Error;
};
struct VersionMismatch : Error {
  using Error::Error;
};

// What connecting to a coordinator yields (connection.h makes it; tests make their own).
struct Attachment {
  shm::SegmentFds segments;
  std::uint32_t slot = 0;
  int control_fd = -1;  // owned; end of file on the other side tells of our death
  std::uint32_t coordinator_pid = 0;
  std::uint32_t supervisor_pid = 0;  // the process that restarts the coordinator
  std::string name;
};

// Lets other threads of the program run while one waits: for the answer to a commit, or for the
// arbitration lock when that cannot be had at once. What serializes the session's calls (the GIL)
// is let go in between; the thread does nothing meanwhile, and never has the lock then.
class WaitHook {
 public:
  // Lets go. Returns whatever after() wants back.
  virtual void* before() noexcept = 0;
  // Takes it again. Where `may_throw`, an exception ends what the thread was doing (a signal came):
  // nothing has been submitted yet.
  virtual void after(void* token, bool may_throw) = 0;

 protected:
  ~WaitHook() = default;
};

// Thread safety: calls must be serialized by the caller (see transaction.h), except pin_block,
// unpin_block, which may be called from any thread at any time. fork() counts as a call: snapshots
// that another thread opens or closes meanwhile may not be pinned in the child.
class Session {
 public:
  explicit Session(Attachment attachment);
  // Over a mapping that others of this process use, too: worker threads in tests.
  Session(Attachment attachment, std::shared_ptr<const shm::Space> space);
  // Detaches: gives back slot and stock. Held block pins keep slot and mapping alive: then the
  // session stays behind, without a thread, until the last is released or the process ends.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // To be set before anything else is done; must live as long as the session.
  void set_wait_hook(WaitHook* hook);

  std::uint64_t version() const;  // clock; one load
  const std::string& name() const;
  std::uint32_t slot() const;
  std::uint32_t coordinator_pid() const;  // as of now (it may have been restarted)
  std::uint32_t supervisor_pid() const;
  bool forked() const;  // true in a child of the process that attached; then only for reading:
  // True in the process that attached, and in a forked child whose inherited snapshots and block
  // pins are its own: these may be read and released there, and blocks be pinned. Otherwise the
  // child's mapping is closed (unless it was made without fork handlers), and releasing does
  // nothing.
  bool keeps_views() const;
  const shm::Space& space() const;

  // Keeps a block's bytes (a held view) for as long as the pin stands. Call while a snapshot pin
  // still covers it. Returns a handle. Throws Error when the process holds too many views.
  std::uint32_t pin_block(std::uint64_t block);
  void unpin_block(std::uint32_t handle);

  struct Stats {
    std::uint64_t version, commits, read_only, conflicts, rollbacks;
    std::uint64_t capacity_bytes, used_bytes, free_bytes, keys, workers, oldest_pin;
  };
  Stats stats() const;

  struct Internals;
  Internals& internals() { return *internals_; }
  const Internals& internals() const { return *internals_; }

 private:
  std::unique_ptr<Internals> internals_;
};

}  // namespace theus::worker
