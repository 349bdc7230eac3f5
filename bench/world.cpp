#include "bench/world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <thread>

#include "shm/futex.h"

namespace theus::bench {

using Clock = std::chrono::steady_clock;

World::World(std::uint64_t capacity_bytes)
    : fds_(shm::create_segments(capacity_bytes)),
      space_(fds_, shm::Access::kWorker),
      arbiter_(space_, shm::kNoSlot) {}

std::uint32_t World::admit(pid_t pid) {
  while (!arbiter_.lock_for(1'000'000'000)) {
  }
  const auto slot = arbiter_.admit(static_cast<std::uint32_t>(pid), 0);
  arbiter_.unlock();
  if (!slot) throw std::runtime_error("no slot left");
  return *slot;
}

worker::Attachment World::attachment(std::uint32_t slot) {
  worker::Attachment attachment;
  attachment.segments.data_writable = fcntl(fds_.data_writable, F_DUPFD_CLOEXEC, 3);
  attachment.segments.data_readable = fcntl(fds_.data_readable, F_DUPFD_CLOEXEC, 3);
  attachment.segments.desks = fcntl(fds_.desks, F_DUPFD_CLOEXEC, 3);
  attachment.slot = slot;
  attachment.name = "bench";
  return attachment;
}

std::unique_ptr<worker::Session> World::attach() {
  return std::make_unique<worker::Session>(attachment(admit(getpid())));
}

std::uint64_t World::used_bytes() const {
  return space_.header().used_extents.load(std::memory_order_relaxed) * shm::kExtentBytes;
}

void commit(worker::Session& session, const std::function<void(worker::Transaction&)>& body) {
  worker::Transaction transaction(session);
  for (;;) {
    transaction.begin(worker::Isolation::kSerializable);
    body(transaction);
    if (transaction.commit().status != worker::CommitResult::Status::kConflict) return;
  }
}

namespace {

constexpr std::uint64_t kPatienceNs = 1'000'000'000;  // whoever sleeps longer looks again

// What parent and workers share while a run lasts.
struct Rendezvous {
  static constexpr int kWorkersMax = 64;
  // Slept on.
  shm::HalfWord arrived{0};  // workers that have attached, or failed to
  shm::HalfWord start{0};
  std::atomic<int> failed{0};
  std::atomic<bool> stop{false};
  struct alignas(64) {
    std::atomic<std::uint64_t> commits{0};
    std::atomic<std::uint64_t> conflicts{0};
  } worker[kWorkersMax];
};

void work(Rendezvous& shared, worker::Session& session, int index, const Attempt& attempt) {
  worker::Transaction transaction(session);
  shared.arrived.fetch_add(1);
  shm::futex_wake(shared.arrived);
  while (shared.start.load() == 0) shm::futex_wait(shared.start, 0, kPatienceNs);
  std::uint64_t commits = 0;
  std::uint64_t conflicts = 0;
  while (!shared.stop.load(std::memory_order_relaxed)) {
    if (attempt(transaction, index)) {
      ++commits;
    } else {
      ++conflicts;
    }
  }
  shared.worker[index].commits = commits;
  shared.worker[index].conflicts = conflicts;
}

}  // namespace

Totals run_workers(World& world, int count, double seconds, const Attempt& attempt) {
  if (count > Rendezvous::kWorkersMax) throw std::invalid_argument("too many workers");
  void* memory =
      mmap(nullptr, sizeof(Rendezvous), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* shared = new (memory) Rendezvous;
  std::vector<pid_t> pids;
  std::fflush(nullptr);
  for (int i = 0; i < count; ++i) {
    const std::uint32_t slot = world.admit(getpid());
    const pid_t pid = fork();
    if (pid != 0) {
      if (pid > 0) pids.push_back(pid);
      continue;
    }
    int status = 1;
    try {
      worker::Session session(world.attachment(slot));
      work(*shared, session, i, attempt);
      status = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "worker %d: %s\n", i, error.what());
      shared->failed = 1;
      shared->arrived.fetch_add(1);
      shm::futex_wake(shared->arrived);
    }
    _exit(status);
  }
  for (std::uint32_t arrived = 0;
       (arrived = shared->arrived.load()) < pids.size() && shared->failed == 0;) {
    shm::futex_wait(shared->arrived, arrived, kPatienceNs);
  }
  const Clock::time_point begin = Clock::now();
  shared->start.store(1);
  shm::futex_wake(shared->start);
  if (shared->failed == 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  shared->stop = true;
  Totals totals;
  totals.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  bool failed = static_cast<int>(pids.size()) != count;
  for (const pid_t pid : pids) {
    int status = 0;
    waitpid(pid, &status, 0);
    failed = failed || status != 0;
  }
  for (int i = 0; i < count; ++i) {
    totals.commits += shared->worker[i].commits;
    totals.conflicts += shared->worker[i].conflicts;
  }
  munmap(memory, sizeof(Rendezvous));
  if (failed) throw std::runtime_error("a worker process failed");
  return totals;
}

}  // namespace theus::bench
