// What the conformance tests run on: one state, and workers over it that are either processes
// (forked, two mappings each) or threads of this process on one mapping (so that ThreadSanitizer
// sees every access).
#pragma once

#include <sys/types.h>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "shm/arbiter.h"
#include "shm/space.h"
#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::testing {

enum class Kind { kThreads, kProcesses };
std::string name_of(Kind kind);

// A state without a coordinator: the test admits and evicts.
class World {
 public:
  explicit World(std::uint64_t capacity_bytes = 64ull << 20);
  ~World();

  // A session of this process, with a slot of its own, on the mapping that all of them share.
  std::unique_ptr<worker::Session> attach();

  // Admits a process by its pid; returns the slot.
  std::uint32_t admit(pid_t pid);
  worker::Attachment attachment(std::uint32_t slot);
  void evict(std::uint32_t slot);
  void reclaim_all();

  shm::Space& space() { return *space_; }
  std::shared_ptr<const shm::Space> shared_space() { return space_; }
  shm::Arbiter& arbiter() { return *arbiter_; }
  const shm::SegmentFds& fds() const { return fds_; }

 private:
  shm::SegmentFds fds_;
  std::shared_ptr<shm::Space> space_;
  std::unique_ptr<shm::Arbiter> arbiter_;
};

// Runs `body(session, index)` in `count` workers at once and waits for all of them. In processes a
// failed expectation or an exception becomes a failure of the calling test.
void run_workers(World& world, Kind kind, int count,
                 const std::function<void(worker::Session&, int)>& body);

// Runs `body` in a child process with a session; returns its pid. The child ends with status 0
// when body returns, 1 after a failure or an exception.
pid_t fork_worker(World& world, std::uint32_t slot,
                  const std::function<void(worker::Session&)>& body);
// Waits for a child; its status as waitpid gives it.
int wait_for(pid_t pid);

// The state of a thread of this process, as the kernel shows it; S: it sleeps.
char state_of(pid_t thread);

inline shm::KeyView key(std::string_view text) { return shm::KeyView(text); }

// Shorthand over one open transaction: paths are key names from the root.
worker::Entry* at(worker::Transaction& t, std::initializer_list<std::string_view> path);
worker::Value read(worker::Transaction& t, std::initializer_list<std::string_view> path);
worker::Value read(worker::Snapshot& s, std::initializer_list<std::string_view> path);
std::vector<std::string> keys(worker::Snapshot& s, std::initializer_list<std::string_view> path);

// Commits `body`'s writes, however often it has to be run; fails the test after `attempts`.
void commit(worker::Session& session, const std::function<void(worker::Transaction&)>& body,
            int attempts = 100000);

}  // namespace theus::testing
