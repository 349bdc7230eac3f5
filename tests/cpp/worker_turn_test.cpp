// The turn within one process: which commits wait for it, for how long, and who is next.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Transaction;
using worker::TurnWish;
using Status = CommitResult::Status;

constexpr std::uint64_t kPatienceNs = 50'000'000'000;
const TurnWish kLong = {.nanoseconds = 60'000'000'000, .patience_ns = kPatienceNs};
const TurnWish kShort = {.nanoseconds = 30'000'000, .patience_ns = kPatienceNs};

struct Signal {};

// Serializes the calls of several threads on one session, as Python does with the GIL.
class Gil final : public worker::WaitHook {
 public:
  void* before() noexcept override {
    ++waiting;
    changed.notify_all();
    mutex.unlock();
    return nullptr;
  }
  void after(void*, bool may_throw) override {
    mutex.lock();
    --waiting;
    if (may_throw && interrupted.exchange(false)) throw Signal();
  }
  // With the mutex held: until so many threads wait inside of the session.
  void until_waiting(std::unique_lock<std::mutex>& lock, int count) {
    changed.wait(lock, [&] { return waiting >= count; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  int waiting = 0;
  std::atomic<bool> interrupted{false};
};

class WorkerTurn : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& t) {
      t.put_int(at(t, {"a"}), 0);
      t.put_int(at(t, {"b"}), 0);
      Mapping* m = t.put_mapping(at(t, {"m"}));
      t.put_int(t.entry(m, key("x")), 0);
      t.put_int(t.entry(m, key("y")), 0);
      t.put_mapping(t.entry(m, key("inner")));
    });
    session->set_wait_hook(&gil);
    held.lock();
  }
  void TearDown() override {
    held.unlock();
    session.reset();
    // Whoever is not woken sleeps for longer.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  static void put(Transaction& t, std::initializer_list<std::string_view> path) {
    t.put_int(at(t, path), 1);
  }
  // A thread that has the session whenever this one waits or lets go of it.
  std::thread thread(const std::function<void()>& body) {
    return std::thread([this, body] {
      const std::unique_lock<std::mutex> lock(gil.mutex);
      body();
    });
  }
  CommitResult write(std::string_view name, bool gives_way = false) {
    Transaction t(*session);
    t.begin(Isolation::kSerializable);
    put(t, {name});
    return t.commit(nullptr, gives_way);
  }
  // Waits until `other` is done, or so many threads wait.
  void join(std::thread& other) {
    held.unlock();
    other.join();
    held.lock();
  }
  std::uint32_t shared_holder() { return world.space().header().turn_slot.load(); }

  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
  Gil gil;
  std::unique_lock<std::mutex> held{gil.mutex, std::defer_lock};
};

// --- What meets what

using Body = void (*)(Transaction&);
struct Meeting {
  const char* name;
  Body holder, writer;
  bool meets;
};

Mapping* mapping_m(Transaction& t) { return t.child(at(t, {"m"})); }
void all_keys(Transaction& t, Mapping* mapping) {
  worker::Transaction::Cursor cursor = t.iterate(mapping);
  while (t.next(cursor) != nullptr) {
  }
}

const Meeting kMeetings[] = {
    {"read, written", [](Transaction& t) { read(t, {"a"}); },
     [](Transaction& t) { t.put_int(at(t, {"a"}), 1); }, true},
    {"written, written", [](Transaction& t) { t.put_int(at(t, {"a"}), 1); },
     [](Transaction& t) { t.put_int(at(t, {"a"}), 2); }, true},
    {"read, another written", [](Transaction& t) { read(t, {"a"}); },
     [](Transaction& t) { t.put_int(at(t, {"b"}), 1); }, false},
    {"read, read", [](Transaction& t) { read(t, {"a"}); },
     [](Transaction& t) {
       read(t, {"a"});
       t.put_int(at(t, {"b"}), 1);
     },
     false},
    {"absent, inserted", [](Transaction& t) { t.contains(at(t, {"new"})); },
     [](Transaction& t) { t.put_int(at(t, {"new"}), 1); }, true},
    {"deeper",
     [](Transaction& t) {
       read(t, {"m", "x"});
     },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "x"}), 1);
     },
     true},
    {"deeper, another",
     [](Transaction& t) {
       read(t, {"m", "x"});
     },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "y"}), 1);
     },
     false},
    {"read below, ancestor deleted",
     [](Transaction& t) {
       read(t, {"m", "x"});
     },
     [](Transaction& t) { t.erase(at(t, {"m"})); }, true},
    {"read below, ancestor cleared",
     [](Transaction& t) {
       read(t, {"m", "x"});
     },
     [](Transaction& t) { t.clear(mapping_m(t)); }, true},
    {"deleted, written below", [](Transaction& t) { t.erase(at(t, {"m"})); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "x"}), 1);
     },
     true},
    {"cleared, written below", [](Transaction& t) { t.clear(mapping_m(t)); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "inner", "new"}), 1);
     },
     true},
    {"replaced, inserted below", [](Transaction& t) { t.put_mapping(at(t, {"m"})); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "inner", "new"}), 1);
     },
     true},
    {"all keys, inserted", [](Transaction& t) { all_keys(t, mapping_m(t)); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "new"}), 1);
     },
     true},
    {"all keys, deleted", [](Transaction& t) { all_keys(t, mapping_m(t)); },
     [](Transaction& t) {
       t.erase(at(t, {"m", "x"}));
     },
     true},
    {"count, inserted", [](Transaction& t) { t.size(mapping_m(t)); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "new"}), 1);
     },
     true},
    {"emptiness, deleted", [](Transaction& t) { t.empty(mapping_m(t)); },
     [](Transaction& t) {
       t.erase(at(t, {"m", "x"}));
     },
     true},
    {"count, replaced", [](Transaction& t) { t.size(mapping_m(t)); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "x"}), 1);
     },
     false},
    {"count, inserted below", [](Transaction& t) { t.size(mapping_m(t)); },
     [](Transaction& t) {
       t.put_int(at(t, {"m", "inner", "new"}), 1);
     },
     false},
    {"root's keys, inserted", [](Transaction& t) { t.size(t.root()); },
     [](Transaction& t) { t.put_int(at(t, {"new"}), 1); }, true},
    {"folded, folded",
     [](Transaction& t) {
       t.fold(at(t, {"a"}), shm::Fold::kAdd, shm::Number::of(std::int64_t{1}));
     },
     [](Transaction& t) {
       t.fold(at(t, {"a"}), shm::Fold::kAdd, shm::Number::of(std::int64_t{1}));
     },
     false},
    {"read, folded", [](Transaction& t) { read(t, {"a"}); },
     [](Transaction& t) {
       t.fold(at(t, {"a"}), shm::Fold::kAdd, shm::Number::of(std::int64_t{1}));
     },
     true},
};

TEST_F(WorkerTurn, WhatMeetsWhatHasBeenDone) {
  for (const Meeting& each : kMeetings) {
    Transaction holder(*session), writer(*session);
    ASSERT_TRUE(holder.claim_turn(kLong));
    holder.begin(Isolation::kSerializable);
    each.holder(holder);
    writer.begin(Isolation::kSerializable);
    each.writer(writer);
    const CommitResult result = writer.commit(nullptr, true);
    EXPECT_EQ(result.gave_way, each.meets) << each.name;
    EXPECT_EQ(result.status, each.meets ? Status::kConflict : Status::kCommitted) << each.name;
    if (each.meets) {
      EXPECT_NE(result.conflict, nullptr) << each.name;
      EXPECT_EQ(result.winner_pid, static_cast<std::uint32_t>(getpid())) << each.name;
    } else {
      // What went through did no harm.
      put(holder, {"harmless"});
      EXPECT_NE(holder.commit().status, Status::kConflict) << each.name;
    }
  }
}

TEST_F(WorkerTurn, WhatMeetsWhatIsExpected) {
  for (const Meeting& each : kMeetings) {
    Transaction holder(*session), writer(*session);
    holder.begin(Isolation::kSerializable);
    each.holder(holder);
    holder.rollback();
    ASSERT_TRUE(holder.claim_turn({.nanoseconds = kLong.nanoseconds,
                                   .patience_ns = kPatienceNs,
                                   .expected = holder.footprint()}));
    writer.begin(Isolation::kSerializable);
    each.writer(writer);
    EXPECT_EQ(writer.commit(nullptr, true).gave_way, each.meets) << each.name;
  }
}

TEST_F(WorkerTurn, EverythingMeets) {
  Transaction holder(*session);
  worker::Footprint everything;
  everything.everything = true;
  ASSERT_TRUE(holder.claim_turn({.nanoseconds = kLong.nanoseconds, .expected = everything}));
  EXPECT_TRUE(write("b", true).gave_way);
}

// --- Threads

TEST_F(WorkerTurn, AThreadWaitsUntilItEndsAndThenLoses) {
  Transaction holder(*session);
  ASSERT_TRUE(holder.claim_turn(kLong));
  holder.begin(Isolation::kSerializable);
  read(holder, {"a"});
  bool disjoint_done = false;
  std::thread other = thread([&] {
    EXPECT_EQ(write("b").status, Status::kCommitted);
    disjoint_done = true;
    EXPECT_EQ(write("a").status, Status::kConflict);
  });
  gil.until_waiting(held, 1);
  EXPECT_TRUE(disjoint_done);
  put(holder, {"a"});
  EXPECT_EQ(holder.commit().status, Status::kCommitted);
  join(other);
}

TEST_F(WorkerTurn, AThreadGoesOnWhenTheTimeIsOver) {
  Transaction holder(*session);
  ASSERT_TRUE(holder.claim_turn(kShort));
  holder.begin(Isolation::kSerializable);
  put(holder, {"a"});
  std::thread other = thread([&] { EXPECT_EQ(write("a").status, Status::kCommitted); });
  join(other);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::nanoseconds(kShort.nanoseconds));
  EXPECT_EQ(holder.commit().status, Status::kConflict);
}

TEST_F(WorkerTurn, NobodyWaitsForOneTurnAfterAnother) {
  Transaction holder(*session);
  ASSERT_TRUE(holder.claim_turn(kLong));
  holder.begin(Isolation::kSerializable);
  put(holder, {"a"});
  std::thread other = thread([&] { EXPECT_EQ(write("a").status, Status::kCommitted); });
  join(other);
}

TEST_F(WorkerTurn, ASignalEndsTheWaitAndNothingHasChanged) {
  const std::function<void()> waits[] = {
      [&] { write("a"); },
      [&] { Transaction(*session).claim_turn(kLong); },
  };
  for (const auto& wait : waits) {
    Transaction holder(*session);
    ASSERT_TRUE(holder.claim_turn(kShort));
    holder.begin(Isolation::kSerializable);
    put(holder, {"a"});
    std::thread other = thread([&] {
      gil.interrupted = true;
      EXPECT_THROW(wait(), Signal);
    });
    join(other);
    EXPECT_EQ(holder.commit().status, Status::kCommitted);
    Transaction next(*session);
    EXPECT_TRUE(next.claim_turn(kLong)) << "nobody stands before it";
  }
}

TEST_F(WorkerTurn, FirstComeFirstServed) {
  constexpr int kThreads = 4;
  Transaction holder(*session);
  ASSERT_TRUE(holder.claim_turn(kLong));
  std::vector<int> order;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(thread([&, i] {
      Transaction next(*session);
      EXPECT_TRUE(next.claim_turn(kLong));
      order.push_back(i);
    }));
    gil.until_waiting(held, i + 1);
  }
  EXPECT_TRUE(order.empty());
  holder.rollback();
  for (std::thread& each : threads) join(each);
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
}

TEST_F(WorkerTurn, WhatWasHandedInBeforeIsSeen) {
  std::unique_ptr<Session> elsewhere = world.attach();
  Transaction foreign(*elsewhere);
  ASSERT_TRUE(foreign.claim_turn(kShort));
  bool committed = false;
  std::thread other = thread([&] {
    EXPECT_EQ(write("a").status, Status::kCommitted);
    committed = true;
  });
  gil.until_waiting(held, 1);  // its delta waits for the end of the foreign turn
  Transaction t(*session);
  EXPECT_TRUE(t.claim_turn(kLong));
  EXPECT_TRUE(committed);
  t.begin(Isolation::kSerializable);
  EXPECT_EQ(read(t, {"a"}).integer, 1);
  put(t, {"a"});
  EXPECT_EQ(t.commit().status, Status::kCommitted);
  join(other);
  foreign.rollback();
}

// --- One thread

TEST_F(WorkerTurn, WithoutGivingWayAThreadDoesNotWaitForItself) {
  Transaction holder(*session);
  ASSERT_TRUE(holder.claim_turn(kLong));
  holder.begin(Isolation::kSerializable);
  put(holder, {"a"});
  EXPECT_EQ(write("a").status, Status::kCommitted);
  EXPECT_EQ(holder.commit().status, Status::kConflict);
}

TEST_F(WorkerTurn, AThreadDoesNotWaitForItsOwnTurnToClaimTheNext) {
  Transaction holder(*session), next(*session);
  ASSERT_TRUE(holder.claim_turn(kLong));
  EXPECT_FALSE(next.claim_turn(kLong));
  holder.rollback();
  EXPECT_TRUE(next.claim_turn(kLong));
  EXPECT_EQ(shared_holder(), session->slot() + 1);
}

TEST_F(WorkerTurn, ATurnThatIsOverIsAnothers) {
  Transaction holder(*session), next(*session);
  ASSERT_TRUE(holder.claim_turn({.nanoseconds = 1}));
  holder.begin(Isolation::kSerializable);
  put(holder, {"a"});
  ASSERT_TRUE(next.claim_turn(kLong));
  EXPECT_EQ(holder.commit().status, Status::kCommitted);
  EXPECT_EQ(shared_holder(), session->slot() + 1) << "the other one's";
  next.rollback();
  EXPECT_EQ(shared_holder(), 0u);
}

}  // namespace
}  // namespace theus::testing
