// The arbitration lock: it outlives its owners, dead or stopped.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>

#include "shm/journal.h"
#include "shm/lock.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::Acquired;
using shm::ArbitrationLock;

constexpr std::uint64_t kLong = 30'000'000'000, kShort = 20'000'000;

class ShmLock : public ::testing::Test {
 protected:
  // A child that takes the lock for `slot`, does `work` and then stops or dies (`how`), holding it.
  pid_t owner(std::uint32_t slot, int how, const std::function<void()>& work) {
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    ArbitrationLock lock(world.space(), slot);
    if (lock.acquire_for(kLong) != Acquired::kYes) _exit(1);
    work();
    raise(how);
    lock.release();  // after a SIGCONT
    _exit(0);
  }

  World world{shm::kMinCapacityBytes};
  shm::Header& header = world.space().writable();
};

TEST_F(ShmLock, EachAcquisitionHasANumberAndAnOwner) {
  ArbitrationLock lock(world.space(), 5);
  EXPECT_EQ(lock_holder(header).thread_id, 0u);
  ASSERT_EQ(lock.try_acquire(), Acquired::kYes);
  EXPECT_EQ(lock_holder(header).thread_id, static_cast<std::uint32_t>(gettid()));
  EXPECT_EQ(world.arbiter().holder().slot, 5u);
  const std::uint64_t sequence = world.arbiter().holder().sequence;
  lock.release();
  EXPECT_EQ(lock_holder(header).thread_id, 0u);
  ASSERT_EQ(lock.acquire_for(kLong), Acquired::kYes);
  EXPECT_NE(world.arbiter().holder().sequence, sequence);
  lock.release();
}

TEST_F(ShmLock, OneOwnerAtATime) {
  ArbitrationLock lock(world.space(), 5);
  ASSERT_EQ(lock.try_acquire(), Acquired::kYes);
  const std::uint64_t sequence = header.lock_sequence.load();
  std::thread other([&] {
    ArbitrationLock mine(world.space(), 6);
    EXPECT_EQ(mine.try_acquire(), Acquired::kNo);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(mine.acquire_for(kShort), Acquired::kNo);
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::nanoseconds(kShort));
  });
  other.join();
  EXPECT_EQ(header.lock_sequence.load(), sequence) << "a failed attempt counts";
  EXPECT_EQ(header.lock_slot.load(), 5u);
  lock.release();
}

TEST_F(ShmLock, ADeadOwnersStepIsTakenBack) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer sees one process";
#endif
  header.ring[0].subject.store(1);
  for (int round = 1; round <= 3; ++round) {
    const pid_t pid = owner(7, SIGKILL, [&] {
      shm::StepJournal journal(world.space());
      journal.begin(header.clock.load() + 1);
      journal.set(header.ring[0].subject, 2);
    });
    const int status = wait_for(pid);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    EXPECT_EQ(header.ring[0].subject.load(), 2u);
    ASSERT_TRUE(world.arbiter().try_lock()) << "round " << round;
    EXPECT_EQ(header.ring[0].subject.load(), 1u);
    EXPECT_EQ(header.repairs.load(), static_cast<std::uint64_t>(round));
    world.arbiter().unlock();
  }
  // Marked consistent each time: still usable.
  ASSERT_TRUE(world.arbiter().lock_for(kLong));
  world.arbiter().unlock();
  EXPECT_EQ(header.repairs.load(), 3u);
}

TEST_F(ShmLock, ARepairerMayDieToo) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer sees one process";
#endif
  header.ring[0].subject.store(1);
  wait_for(owner(7, SIGKILL, [&] {
    shm::StepJournal journal(world.space());
    journal.begin(shm::kNoVersion);
    journal.set(header.ring[0].subject, 2);
    journal.set(header.ring[0].subject, 3);
  }));
  std::fflush(nullptr);
  const pid_t second = fork();
  if (second == 0) {
    ArbitrationLock lock(world.space(), 8);
    if (lock.try_acquire() != Acquired::kOwnerDied) _exit(1);
    raise(SIGKILL);  // before consistent(): the next one gets the same answer
  }
  EXPECT_TRUE(WIFSIGNALED(wait_for(second)));
  ASSERT_TRUE(world.arbiter().try_lock());
  EXPECT_EQ(header.ring[0].subject.load(), 1u);
  world.arbiter().unlock();
}

TEST_F(ShmLock, AStoppedOwnerMakesItTimeOut) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer sees one process";
#endif
  const pid_t pid = owner(7, SIGSTOP, [] {});
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, WUNTRACED), pid);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_FALSE(world.arbiter().try_lock());
  EXPECT_FALSE(world.arbiter().lock_for(kShort));
  const shm::LockHolder holder = world.arbiter().holder();
  EXPECT_EQ(holder.thread_id, static_cast<std::uint32_t>(pid));
  EXPECT_EQ(holder.slot, 7u);
  EXPECT_FALSE(world.arbiter().lock_for(kShort));
  EXPECT_EQ(world.arbiter().holder().sequence, holder.sequence) << "the same acquisition";
  EXPECT_EQ(kill(pid, SIGCONT), 0);
  EXPECT_TRUE(world.arbiter().lock_for(kLong));
  EXPECT_NE(world.arbiter().holder().sequence, holder.sequence);
  world.arbiter().unlock();
  EXPECT_EQ(wait_for(pid), 0);
  EXPECT_EQ(header.repairs.load(), 0u);
}

// A worker that dies while it decides its own commit: the request is decided by whoever comes next
// or given up at its eviction, and everybody else goes on.
TEST_F(ShmLock, WorkersGoOnBehindADeadOwner) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer sees one process";
#endif
  auto session = world.attach();
  wait_for(owner(7, SIGKILL, [] {}));
  commit(*session, [](worker::Transaction& t) { t.put_int(at(t, {"n"}), 1); }, 1);
  EXPECT_EQ(header.repairs.load(), 1u);
  session.reset();
  const Audit result = audit(world, true);
  EXPECT_TRUE(result.faults.empty()) << result.text();
}

}  // namespace
}  // namespace theus::testing
