// A state for benchmarks: segments without a coordinator, because no measured path goes through
// one. Workers are admitted by the benchmark itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "shm/arbiter.h"
#include "shm/space.h"
#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::bench {

// Thread safety: one thread.
class World {
 public:
  explicit World(std::uint64_t capacity_bytes = 256ull << 20);

  // A session of this process with mappings of its own, as a worker has them.
  std::unique_ptr<worker::Session> attach();

  // A slot for process `pid` and what it takes to attach there.
  std::uint32_t admit(pid_t pid);
  worker::Attachment attachment(std::uint32_t slot);

  std::uint64_t used_bytes() const;
  std::uint64_t capacity_bytes() const { return space_.capacity_bytes(); }

 private:
  shm::SegmentFds fds_;
  shm::Space space_;
  shm::Arbiter arbiter_;
};

inline shm::KeyView key(std::string_view text) { return shm::KeyView(text); }

// Runs `body` until it commits.
void commit(worker::Session& session, const std::function<void(worker::Transaction&)>& body);

// What `count` worker processes did between a common start and a common end.
struct Totals {
  std::uint64_t commits = 0;
  std::uint64_t conflicts = 0;
  double seconds = 0;
};
// Forks `count` workers; each calls `attempt(transaction, index)` for `seconds` after all are
// attached. `attempt` begins and commits one transaction and tells whether it committed. Throws
// std::runtime_error when a worker fails.
using Attempt = std::function<bool(worker::Transaction&, int)>;
Totals run_workers(World& world, int count, double seconds, const Attempt& attempt);

}  // namespace theus::bench
