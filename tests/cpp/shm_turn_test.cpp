// Turns: who has lost too often commits next, and nobody waits for long.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Isolation;
using worker::Session;
using worker::Transaction;
using Status = CommitResult::Status;

constexpr std::uint64_t kLong = 60'000'000'000, kShort = 30'000'000;

class ShmTurn : public ::testing::Test {
 protected:
  void SetUp() override {
    first = world.attach();
    second = world.attach();
    commit(*first, [](Transaction& t) {
      t.put_int(at(t, {"a"}), 0);
      t.put_int(at(t, {"b"}), 0);
    });
  }
  struct Noting : worker::WaitHook {
    explicit Noting(std::atomic<bool>& into) : waits(into) {}
    void* before() noexcept override {
      waits = true;
      return nullptr;
    }
    void after(void*, bool) override {}
    std::atomic<bool>& waits;
  };
  // One blind write by `session`.
  static Status write(Session& session, std::string_view name) {
    Transaction t(session);
    t.begin(Isolation::kSerializable);
    t.put_int(at(t, {name}), 1);
    return t.commit().status;
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> first, second;
};

TEST_F(ShmTurn, OneAtATime) {
  EXPECT_TRUE(first->claim_turn(kLong));
  EXPECT_FALSE(second->claim_turn(kLong));
  EXPECT_TRUE(first->claim_turn(kLong)) << "its own may be made longer";
  EXPECT_EQ(world.space().header().turns.load(), 2u);
  EXPECT_EQ(write(*first, "a"), Status::kCommitted);
  EXPECT_TRUE(second->claim_turn(kLong)) << "it ends with the commit";
}

TEST_F(ShmTurn, OthersWaitAndCommitRightAfter) {
  ASSERT_TRUE(first->claim_turn(kLong));
  const std::uint64_t before = first->version();
  std::atomic<bool> waits{false};
  std::atomic<bool> over{false};
  Noting hook(waits);
  second->set_wait_hook(&hook);
  std::thread other([&] {
    EXPECT_EQ(write(*second, "b"), Status::kCommitted);
    over = true;
  });
  // It has handed its delta in, tried to have it decided, and gone to sleep.
  while (!waits.load() && !over.load()) std::this_thread::yield();
  EXPECT_FALSE(over.load());
  EXPECT_EQ(first->version(), before);
  EXPECT_EQ(write(*first, "a"), Status::kCommitted);
  other.join();
  second->set_wait_hook(nullptr);
  EXPECT_EQ(first->version(), before + 2);
}

TEST_F(ShmTurn, ItRunsOutByItself) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(first->claim_turn(kShort));
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::nanoseconds(kShort));
  EXPECT_EQ(world.space().header().turn_slot.load(), 0u);
  EXPECT_TRUE(second->claim_turn(kLong));
}

TEST_F(ShmTurn, ItEndsWithItsHolder) {
  ASSERT_TRUE(first->claim_turn(kLong));
  first.reset();
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
}

TEST_F(ShmTurn, ARejectedDeltaEndsItToo) {
  Transaction loser(*first);
  loser.begin(Isolation::kSerializable);
  loser.put_int(at(loser, {"a"}), 5);
  EXPECT_EQ(write(*second, "a"), Status::kCommitted);
  ASSERT_TRUE(first->claim_turn(kLong));
  EXPECT_EQ(loser.commit().status, Status::kConflict);
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
}

TEST_F(ShmTurn, ARefutedReadSetEndsItToo) {
  first->internals().validate_above = 0;
  Transaction loser(*first);
  loser.begin(Isolation::kSerializable);
  EXPECT_EQ(read(loser, {"a"}).integer, 0);
  loser.put_int(at(loser, {"b"}), 5);
  EXPECT_EQ(write(*second, "a"), Status::kCommitted);
  ASSERT_TRUE(first->claim_turn(kLong));
  EXPECT_EQ(loser.commit().status, Status::kConflict);
  EXPECT_EQ(world.space().header().turn_slot.load(), 0u);
}

TEST_F(ShmTurn, ACommitThatFailsEndsItToo) {
  struct Signal {};
  Transaction t(*first);
  t.begin(Isolation::kSerializable);
  t.put_int(at(t, {"a"}), 5);
  ASSERT_TRUE(first->claim_turn(kLong));
  first->internals().before_request = [] { throw Signal(); };
  EXPECT_THROW(t.commit(), Signal);
  first->internals().before_request = nullptr;
  EXPECT_EQ(world.space().header().turn_slot.load(), 0u);
}

TEST_F(ShmTurn, ReadersAndReadOnlyTransactionsNeverWait) {
  ASSERT_TRUE(first->claim_turn(kLong));
  Transaction t(*second);
  t.begin(Isolation::kSerializable);
  EXPECT_EQ(read(t, {"a"}).integer, 0);
  EXPECT_EQ(t.commit().status, Status::kReadOnly);
}

}  // namespace
}  // namespace theus::testing
