// Turns: who has lost too often commits next, and nobody waits for long.
#include <gtest/gtest.h>
#include <unistd.h>

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
using worker::TurnWish;
using Status = CommitResult::Status;

const TurnWish kLong = {.nanoseconds = 60'000'000'000};
const TurnWish kShort = {.nanoseconds = 30'000'000};

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
  // One blind write.
  static Status write(Transaction& t, std::string_view name) {
    t.begin(Isolation::kSerializable);
    t.put_int(at(t, {name}), 1);
    return t.commit().status;
  }
  static Status write(Session& session, std::string_view name) {
    Transaction t(session);
    return write(t, name);
  }
  std::uint32_t holder() { return world.space().header().turn_slot.load(); }
  std::uint32_t turns() { return world.space().header().turns.load(); }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> first, second;
};

TEST_F(ShmTurn, OneAtATime) {
  Transaction one(*first), other(*second);
  EXPECT_TRUE(one.claim_turn(kLong));
  EXPECT_FALSE(other.claim_turn(kLong));
  EXPECT_EQ(turns(), 1u);
  EXPECT_EQ(write(one, "a"), Status::kCommitted);
  EXPECT_EQ(holder(), 0u) << "it ends with the commit";
  EXPECT_TRUE(other.claim_turn(kLong));
  EXPECT_EQ(holder(), second->slot() + 1);
}

TEST_F(ShmTurn, OthersWaitAndCommitRightAfter) {
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
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
  EXPECT_EQ(write(t, "a"), Status::kCommitted);
  other.join();
  second->set_wait_hook(nullptr);
  EXPECT_EQ(first->version(), before + 2);
}

TEST_F(ShmTurn, WhoWantsItNextIsWokenWhenItEnds) {
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
  std::atomic<bool> waits{false};
  std::atomic<pid_t> id{0};
  Noting hook(waits);
  second->set_wait_hook(&hook);
  std::thread other([&] {
    id = gettid();
    Transaction next(*second);
    EXPECT_TRUE(next.claim_turn({.nanoseconds = 1'000'000, .patience_ns = 30'000'000'000}));
    EXPECT_EQ(holder(), second->slot() + 1);
  });
  const auto start = std::chrono::steady_clock::now();
  while (!waits.load() || state_of(id.load()) != 'S') std::this_thread::yield();
  EXPECT_EQ(holder(), first->slot() + 1);
  t.rollback();
  other.join();
  second->set_wait_hook(nullptr);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(ShmTurn, WhoWantsItNextGivesUpWhenItsPatienceEnds) {
  Transaction t(*first), next(*second);
  ASSERT_TRUE(t.claim_turn(kLong));
  EXPECT_FALSE(next.claim_turn({.nanoseconds = 1'000'000, .patience_ns = 5'000'000}));
}

TEST_F(ShmTurn, ItRunsOutByItself) {
  const auto start = std::chrono::steady_clock::now();
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kShort));
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::nanoseconds(kShort.nanoseconds));
  EXPECT_EQ(holder(), 0u);
  Transaction other(*second);
  EXPECT_TRUE(other.claim_turn(kLong));
}

TEST_F(ShmTurn, ItEndsWithItsProcess) {
  ASSERT_TRUE(Transaction(*first).claim_turn(kLong));
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
  world.evict(first->slot());
  EXPECT_EQ(holder(), 0u);
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
  first->internals().lost = true;
}

TEST_F(ShmTurn, ItEndsWithItsTransactionHoweverThatEnds) {
  {
    Transaction never_begun(*first);
    ASSERT_TRUE(never_begun.claim_turn(kLong));
  }
  EXPECT_EQ(holder(), 0u);
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
  t.rollback();
  EXPECT_EQ(holder(), 0u) << "not begun yet";
  ASSERT_TRUE(t.claim_turn(kLong));
  t.begin(Isolation::kSerializable);
  t.put_int(at(t, {"a"}), 5);
  EXPECT_EQ(holder(), first->slot() + 1);
  t.rollback();
  EXPECT_EQ(holder(), 0u);
  ASSERT_TRUE(t.claim_turn(kLong));
  t.begin(Isolation::kSerializable);
  EXPECT_EQ(t.commit().status, Status::kReadOnly);
  EXPECT_EQ(holder(), 0u);
}

TEST_F(ShmTurn, AnotherTransactionOfTheSameProcessDoesNotEndIt) {
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
  t.begin(Isolation::kSerializable);
  t.put_int(at(t, {"a"}), 5);
  EXPECT_EQ(write(*first, "b"), Status::kCommitted);
  EXPECT_EQ(holder(), first->slot() + 1);
  {
    Transaction rolled_back(*first);
    rolled_back.begin(Isolation::kSerializable);
    rolled_back.put_int(at(rolled_back, {"b"}), 5);
  }
  EXPECT_EQ(holder(), first->slot() + 1);
  EXPECT_EQ(t.commit().status, Status::kCommitted);
  EXPECT_EQ(holder(), 0u);
}

TEST_F(ShmTurn, ARejectedDeltaEndsItToo) {
  Transaction loser(*first);
  loser.begin(Isolation::kSerializable);
  loser.put_int(at(loser, {"a"}), 5);
  EXPECT_EQ(write(*second, "a"), Status::kCommitted);
  ASSERT_TRUE(loser.claim_turn(kLong));
  EXPECT_EQ(loser.commit().status, Status::kConflict);
  EXPECT_EQ(holder(), 0u);
  EXPECT_EQ(write(*second, "b"), Status::kCommitted);
}

TEST_F(ShmTurn, ARefutedReadSetEndsItToo) {
  first->internals().validate_above = 0;
  Transaction loser(*first);
  loser.begin(Isolation::kSerializable);
  EXPECT_EQ(read(loser, {"a"}).integer, 0);
  loser.put_int(at(loser, {"b"}), 5);
  EXPECT_EQ(write(*second, "a"), Status::kCommitted);
  ASSERT_TRUE(loser.claim_turn(kLong));
  EXPECT_EQ(loser.commit().status, Status::kConflict);
  EXPECT_EQ(holder(), 0u);
}

TEST_F(ShmTurn, ACommitThatFailsEndsItToo) {
  struct Signal {};
  Transaction t(*first);
  ASSERT_TRUE(t.claim_turn(kLong));
  t.begin(Isolation::kSerializable);
  t.put_int(at(t, {"a"}), 5);
  first->internals().before_request = [] { throw Signal(); };
  EXPECT_THROW(t.commit(), Signal);
  first->internals().before_request = nullptr;
  EXPECT_EQ(holder(), 0u);
}

TEST_F(ShmTurn, ReadersAndReadOnlyTransactionsNeverWait) {
  Transaction holds(*first);
  ASSERT_TRUE(holds.claim_turn(kLong));
  Transaction t(*second);
  t.begin(Isolation::kSerializable);
  EXPECT_EQ(read(t, {"a"}).integer, 0);
  EXPECT_EQ(t.commit().status, Status::kReadOnly);
}

TEST_F(ShmTurn, WhoWasKeptAwayIsServedBetweenTwoTurns) {
  const auto third = world.attach();
  Transaction one(*third), two(*first);
  ASSERT_TRUE(one.claim_turn(kShort));
  std::thread kept_away([this] { EXPECT_EQ(write(*second, "b"), Status::kCommitted); });
  const shm::Desk& desk = world.space().desk_readable(second->slot());
  while (desk.sleeping.load() == 0) std::this_thread::yield();
  const std::uint64_t before = first->version();
  // In the very hold of the lock in which the first is over.
  EXPECT_TRUE(two.claim_turn({.nanoseconds = 60'000'000'000, .patience_ns = 30'000'000'000}));
  EXPECT_EQ(first->version(), before + 1);
  kept_away.join();
}

}  // namespace
}  // namespace theus::testing
