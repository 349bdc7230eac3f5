// Waiting for the arbitration lock: others run meanwhile, and a signal may end it.
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Isolation;
using worker::Transaction;

struct Signal : std::runtime_error {
  Signal() : std::runtime_error("a signal") {}
};

// The test holds the lock; this lets go of it during one of the waits for it.
class Hook : public worker::WaitHook {
 public:
  explicit Hook(World& world) : world_(world) {}

  void* before() noexcept override {
    if (++waits == let_go_at) world_.arbiter().unlock();
    if (lose != nullptr) *lose = true;
    return this;
  }
  void after(void* token, bool may_throw) override {
    EXPECT_EQ(token, this);
    // With the lock in hand everybody would wait for whoever has the GIL.
    if (waits >= let_go_at) {
      EXPECT_EQ(shm::lock_holder(world_.space().header()).thread_id, 0u);
    }
    if (interrupt && may_throw) throw Signal();
  }

  int waits = 0;
  int let_go_at = 2;
  bool* lose = nullptr;  // what another thread sets meanwhile
  bool interrupt = false;

 private:
  World& world_;
};

class WorkerWaitingForLock : public ::testing::Test {
 protected:
  void SetUp() override {
    session = world.attach();
    commit(*session, [](Transaction& first) { first.put_int(at(first, {"a"}), 0); });
    session->set_wait_hook(&hook);
    t = std::make_unique<Transaction>(*session);
    t->begin(Isolation::kSerializable);
  }
  void TearDown() override {
    t.reset();
    session.reset();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  void hold() { ASSERT_TRUE(world.arbiter().lock_for(1'000'000'000)); }

  // More than fits into a cell: its room is bought under the lock.
  const std::string large = std::string(100'000, 'x');
  World world{shm::kMinCapacityBytes};
  Hook hook{world};
  std::unique_ptr<worker::Session> session;
  std::unique_ptr<Transaction> t;
};

TEST_F(WorkerWaitingForLock, OthersRunMeanwhile) {
  hold();
  t->put_bytes(at(*t, {"a"}), large);
  EXPECT_EQ(hook.waits, 2);
  EXPECT_EQ(t->commit().status, CommitResult::Status::kCommitted);
  EXPECT_EQ(hook.waits, 2) << "the lock was to be had";
}

TEST_F(WorkerWaitingForLock, ATurnIsWaitedForInTheSameWay) {
  t->rollback();
  hold();
  EXPECT_TRUE(t->claim_turn({.nanoseconds = 1'000'000}));
  EXPECT_EQ(hook.waits, 2);
}

TEST_F(WorkerWaitingForLock, ASignalEndsItAndNothingHasChanged) {
  worker::Entry* mapping = at(*t, {"m"});
  t->put_int(t->entry(t->put_mapping(mapping), key("k")), 7);
  hold();
  hook.interrupt = true;
  EXPECT_THROW(t->put_bytes(mapping, large), Signal);
  EXPECT_EQ(hook.waits, 1);
  world.arbiter().unlock();
  EXPECT_EQ(read(*t, {"m", "k"}).integer, 7);
  EXPECT_EQ(t->commit().status, CommitResult::Status::kCommitted);
  worker::Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"m", "k"}).integer, 7);
}

TEST_F(WorkerWaitingForLock, WhatWasBegunIsFinishedWhateverSignalComes) {
  t->put_bytes(at(*t, {"a"}), large);
  hold();
  hook.interrupt = true;
  t->rollback();  // gives the room back
  EXPECT_EQ(hook.waits, 2);
}

TEST_F(WorkerWaitingForLock, NeverBetweenRequestAndAnswer) {
  t->put_int(at(*t, {"a"}), 1);
  hold();
  hook.interrupt = true;
  EXPECT_EQ(t->commit().status, CommitResult::Status::kCommitted);
  EXPECT_EQ(hook.waits, 2);
}

// Another thread has given its commit up: somebody may be reading its message, or the slot may be
// another's. What this one has open must not touch anything any more.
TEST_F(WorkerWaitingForLock, ThePlaceIsLostMeanwhile) {
  bool& lost = session->internals().lost;
  worker::Entry* a = at(*t, {"a"});
  t->put_int(a, 1);
  const std::uint64_t request = session->internals().desk->request.load();
  hold();
  hook.lose = &lost;
  hook.let_go_at = 1;
  EXPECT_THROW(t->put_bytes(a, large), worker::CoordinatorLost) << "in the middle of a wait";
  EXPECT_EQ(hook.waits, 1);
  EXPECT_THROW(t->put_bytes(a, "more than fits into a record"), worker::CoordinatorLost);
  EXPECT_THROW(t->commit(), worker::CoordinatorLost);
  EXPECT_THROW(t->claim_turn({.nanoseconds = 1}), worker::CoordinatorLost);
  EXPECT_EQ(session->internals().desk->request.load(), request);
  EXPECT_EQ(world.space().header().turn_slot.load(), 0u);
  lost = false;  // so that the session gives its slot back
}

}  // namespace
}  // namespace theus::testing
