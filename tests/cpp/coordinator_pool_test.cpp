// The pool: free memory stays warm as long as it is used, and goes back to the system when not.
#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "coordinator/pool.h"
#include "shm/extents.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/coordinator_harness.h"
#include "tests/cpp/harness.h"
#include "worker/stock.h"

namespace theus::testing {
namespace {

using coordinator::Pool;
using shm::Link;
using worker::Transaction;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kWindow = 10 * kSecondNs;
constexpr std::uint64_t kKept = 16 * kMiB;

// The janitor's part is played by hand, so that time is.
class CoordinatorPool : public ::testing::Test {
 protected:
  void lock() {
    while (!world.arbiter().lock_for(kSecondNs)) {
    }
  }
  void hold() {
    lock();
    pool->work(now);
    world.arbiter().unlock();
  }
  void run() {
    for (int pieces = 0; pool->wants_lock(); ++pieces) {
      ASSERT_LT(pieces, 10'000);
      hold();
      pool->between();
    }
    hold();  // one more for what a worker's release has set
    pool->between();
  }
  void wait(std::uint64_t nanoseconds) {
    now += nanoseconds;
    pool->look(now);
    run();
  }
  void put_large(std::uint64_t bytes) {
    commit(*session, [&](Transaction& t) { t.put_leaf(at(t, {"large"}), bytes); });
  }
  void erase_large() {
    commit(*session, [](Transaction& t) { t.erase(at(t, {"large"})); });
    world.reclaim_all();
  }
  std::uint64_t warm_bytes() {
    lock();
    const std::uint64_t warm = world.arbiter().pool().warm;
    world.arbiter().unlock();
    return warm * shm::kExtentBytes;
  }
  // What the system says.
  std::uint64_t resident_bytes() const {
    struct stat status {};
    EXPECT_EQ(fstat(world.fds().data_writable, &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  std::unique_ptr<Pool> new_pool() {
    return std::make_unique<Pool>(world.space(), world.arbiter(), Pool::Settings{kKept, kWindow},
                                  log, now);
  }
  void TearDown() override {
    run();
    session.reset();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }

  World world{256 * kMiB};
  std::unique_ptr<worker::Session> session = world.attach();
  spdlog::logger log{"test"};
  std::uint64_t now = 1000 * kSecondNs;
  std::unique_ptr<Pool> pool = new_pool();
};

TEST_F(CoordinatorPool, WhatNobodyUsesGoesBackToTheSystem) {
  run();
  put_large(100 * kMiB);
  EXPECT_EQ(world.space().header().backlog.load(), 0u);
  erase_large();
  run();
  const std::uint64_t before = resident_bytes();
  EXPECT_GT(warm_bytes(), 100 * kMiB - kMiB);
  wait(kWindow - 1);
  EXPECT_GT(warm_bytes(), 100 * kMiB - kMiB) << "too early";
  wait(1);
  EXPECT_LE(warm_bytes(), kKept);
  EXPECT_GT(warm_bytes(), kKept - 5 * kMiB) << "more than was too much";
  EXPECT_LT(resident_bytes(), before - 80 * kMiB);
  // Nothing is left to be looked at.
  wait(kWindow);
  EXPECT_EQ(pool->due_ns(), Pool::kNever);
  put_large(100 * kMiB);
  erase_large();
  run();
  EXPECT_EQ(pool->due_ns(), now + kWindow) << "and again";
}

TEST_F(CoordinatorPool, WhatIsUsedNowAndThenStays) {
  run();
  put_large(100 * kMiB);
  erase_large();
  run();
  for (int i = 0; i < 5; ++i) {
    wait(kWindow / 2);
    EXPECT_GT(warm_bytes(), 100 * kMiB - kMiB) << i;
    put_large(100 * kMiB);
    erase_large();
    run();
  }
  wait(kWindow);
  wait(kWindow);
  EXPECT_LE(warm_bytes(), kKept);
}

// A link that was good before must not fit what lies there now.
TEST_F(CoordinatorPool, GenerationsDoNotStartAgainInMemoryThatWasGone) {
  run();
  Link links[2];
  for (Link& link : links) {
    put_large(100 * kMiB);
    worker::Snapshot snapshot(*session);
    link = Link(read(snapshot, {"large"}).block);
    snapshot.close();
    erase_large();
    run();
    wait(kWindow);
  }
  ASSERT_EQ(links[0].unit(), links[1].unit()) << "not at the same place: the test tests nothing";
  EXPECT_NE(links[0].generation(), links[1].generation());
}

TEST_F(CoordinatorPool, HalfOfWhatIsInUseStays) {
  run();
  commit(*session, [](Transaction& t) { t.put_leaf(at(t, {"kept"}), 80 * kMiB); });
  put_large(100 * kMiB);
  erase_large();
  run();
  wait(kWindow);
  EXPECT_LE(warm_bytes(), 42 * kMiB);
  EXPECT_GT(warm_bytes(), 35 * kMiB);
}

TEST_F(CoordinatorPool, MemoryThatWasNeverCommittedWakesTheJanitor) {
  run();
  {
    Transaction t(*session);
    t.begin(worker::Isolation::kSerializable);
    t.put_leaf(at(t, {"large"}), 50 * kMiB);
  }
  EXPECT_EQ(world.space().header().backlog.load(), 1u);
  lock();
  EXPECT_FALSE(world.arbiter().reclaim(100));
  EXPECT_EQ(world.space().header().backlog.load(), 1u) << "the janitor must not miss the bell";
  world.arbiter().unlock();
  run();
  EXPECT_EQ(world.space().header().pool.load(),
            static_cast<std::uint32_t>(shm::PoolWatch::kWatched));
}

TEST_F(CoordinatorPool, ADeathWithARunTakenOutLosesNothing) {
  run();
  put_large(100 * kMiB);
  erase_large();
  run();
  now += kWindow;
  pool->look(now);
  hold();
  pool->between();
  hold();  // one is back, the next is out; and here it dies
  const std::uint64_t used = world.space().header().used_extents.load();
  const std::uint64_t resident = resident_bytes();
  pool = new_pool();
  run();
  EXPECT_LT(world.space().header().used_extents.load(), used);
  EXPECT_LT(resident_bytes(), resident) << "its memory was to be taken away";
}

TEST_F(CoordinatorPool, TheReserveGetsItsMemoryAfterAWhile) {
  const shm::Header& header = world.space().header();
  const std::uint64_t length = header.extent_count.load() - header.reserve_at.load();
  shm::StepJournal journal(world.space());
  const shm::Extents extents(world.space(), journal);
  run();
  EXPECT_EQ(extents.reserve(shm::kNoSlot).warm, 0u);
  const std::uint64_t backed = header.backed_extents.load();
  wait(kSecondNs);
  EXPECT_EQ(extents.reserve(shm::kNoSlot).warm, length);
  EXPECT_EQ(header.backed_extents.load(), backed + length);
  EXPECT_EQ(warm_bytes(), 0u) << "it is nobody's to use";
  EXPECT_EQ(pool->due_ns(), Pool::kNever);
}

// All of it in a real coordinator, which nobody wakes but the memory itself.
TEST_F(CoordinatorTest, GivesFreeMemoryBackToTheSystem) {
  Peer coordinator([](const Peer::Line&) {
    execl(THEUS_COORDINATOR_EXECUTABLE, THEUS_COORDINATOR_EXECUTABLE, "shop", "--capacity",
          "256MiB", "--pool", "16MiB", "--pool-seconds", "1", "--log-level", "error", nullptr);
    _exit(1);
  });
  std::unique_ptr<worker::Session> session;
  ASSERT_TRUE(eventually([&] {
    try {
      session = std::make_unique<worker::Session>(worker::attach("shop"));
    } catch (const worker::CoordinatorNotFound&) {
      return false;
    }
    return true;
  }));
  const shm::Header& header = session->space().header();
  const std::uint64_t reserve = header.extent_count.load() - header.reserve_at.load();
  EXPECT_TRUE(eventually([&] { return header.backed_extents.load() >= reserve; }));
  {
    Transaction t(*session);
    t.begin(worker::Isolation::kSerializable);
    t.put_leaf(at(t, {"large"}), 100 * kMiB);
  }
  EXPECT_GT(header.backed_extents.load(), 100 * kMiB / shm::kExtentBytes);
  EXPECT_TRUE(
      eventually([&] { return header.backed_extents.load() < 30 * kMiB / shm::kExtentBytes; }));
  EXPECT_TRUE(eventually([&] {
    return header.pool.load() == static_cast<std::uint32_t>(shm::PoolWatch::kIdle);
  })) << "somebody goes on looking at nothing";
  session.reset();
  worker::stop_coordinator("shop", 10);
}

}  // namespace
}  // namespace theus::testing
