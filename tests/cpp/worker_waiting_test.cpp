// Waiting for changes: who is woken by what, that no wake-up is lost, and what a death leaves.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/waiting.h"

namespace theus::testing {
namespace {

using worker::Interests;
using worker::Isolation;
using worker::ReadSet;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Wait;
using worker::WatchedPath;
using Path = std::initializer_list<std::string_view>;

constexpr std::uint64_t kLongNs = 20'000'000'000;

WatchedPath watched(const std::vector<std::string>& names) {
  WatchedPath path;
  for (const std::string& name : names) path.emplace_back(key(name));
  return path;
}

Interests interests_of(Session& session, const WatchedPath& path) {
  Interests interests;
  worker::add_interests(Snapshot(session), path, &interests);
  return interests;
}

// Of no key that there is.
Interests any_interest() { return {{1, 2, 3}, false}; }

void fill(Transaction& t) {
  t.put_int(at(t, {"top"}), 0);
  worker::Mapping* a = t.put_mapping(at(t, {"a"}));
  t.put_int(t.entry(a, key("x")), 0);
  worker::Mapping* b = t.put_mapping(t.entry(a, key("b")));
  t.put_int(t.entry(b, key("y")), 0);
  t.put_int(t.entry(b, key("z")), 0);
}

class WorkerWaiting : public ::testing::Test {
 protected:
  void SetUp() override {
    waiter = world.attach();
    writer = world.attach();
    commit(*writer, fill);
  }
  void TearDown() override {
    writer.reset();
    waiter.reset();
    EXPECT_EQ(world.space().header().waiters.load(), 0u);
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> waiter, writer;
};

struct Change {
  const char* name;
  std::function<void(Transaction&)> apply;
};

const std::vector<Change>& changes() {
  static const std::vector<Change> all = {
      {"top", [](Transaction& t) { t.put_int(at(t, {"top"}), 1); }},
      {"a.x",
       [](Transaction& t) {
         t.put_int(at(t, {"a", "x"}), 1);
       }},
      {"a.b.y",
       [](Transaction& t) {
         t.put_int(at(t, {"a", "b", "y"}), 1);
       }},
      {"a.b.z deleted",
       [](Transaction& t) {
         t.erase(at(t, {"a", "b", "z"}));
       }},
      {"a.b.new",
       [](Transaction& t) {
         t.put_int(at(t, {"a", "b", "new"}), 1);
       }},
      {"a.b replaced",
       [](Transaction& t) {
         t.put_int(at(t, {"a", "b"}), 1);
       }},
      {"a deleted", [](Transaction& t) { t.erase(at(t, {"a"})); }},
      {"a.b cleared",
       [](Transaction& t) {
         t.clear(t.child(at(t, {"a", "b"})));
       }},
  };
  return all;
}

struct Row {
  std::vector<std::string> path;
  std::vector<std::string> woken_by;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> all = {
      {{},
       {"top", "a.x", "a.b.y", "a.b.z deleted", "a.b.new", "a.b replaced", "a deleted",
        "a.b cleared"}},
      {{"top"}, {"top"}},
      {{"a"},
       {"a.x", "a.b.y", "a.b.z deleted", "a.b.new", "a.b replaced", "a deleted", "a.b cleared"}},
      {{"a", "x"}, {"a.x", "a deleted"}},
      {{"a", "b"},
       {"a.b.y", "a.b.z deleted", "a.b.new", "a.b replaced", "a deleted", "a.b cleared"}},
      {{"a", "b", "y"}, {"a.b.y", "a.b replaced", "a deleted", "a.b cleared"}},
      {{"a", "b", "new"}, {"a.b.new", "a.b replaced", "a deleted", "a.b cleared"}},
      {{"a", "none", "deeper"}, {"a deleted"}},
      {{"top", "inside a leaf"}, {"top"}},
  };
  return all;
}

// Those that kill the lock's owner (CMakePresets.json).
class WaitingDeath : public WorkerWaiting {};

TEST_F(WorkerWaiting, WhatWakesWhom) {
  for (const Row& row : rows()) {
    for (const Change& change : changes()) {
      World fresh(shm::kMinCapacityBytes);
      const auto one = fresh.attach(), other = fresh.attach();
      commit(*other, fill);
      const std::uint64_t since = one->version();
      const WatchedPath path = watched(row.path);
      Wait wait(*one);
      wait.arm(interests_of(*one, path));
      EXPECT_FALSE(wait.woken());
      EXPECT_FALSE(worker::changed_since(Snapshot(*one), path, since));
      commit(*other, change.apply);
      bool wanted = false;
      for (const std::string& name : row.woken_by) wanted = wanted || name == change.name;
      std::string path_name;
      for (const std::string& name : row.path) path_name += "." + name;
      EXPECT_EQ(wait.woken(), wanted) << path_name << " by " << change.name;
      const bool changed = worker::changed_since(Snapshot(*one), path, since);
      EXPECT_TRUE(changed || !wanted) << path_name << " by " << change.name;
      if (path_name == ".a.x" || path_name == ".a.b.y" || path_name == ".a.b") {
        EXPECT_EQ(changed, wanted) << "exact where the path exists: " << change.name;
      }
      EXPECT_FALSE(worker::changed_since(Snapshot(*one), path, one->version()));
    }
  }
}

TEST_F(WorkerWaiting, ACommitBeforeTheRegistrationIsSeenByTheLookAfterIt) {
  const std::uint64_t since = waiter->version();
  const WatchedPath path = watched({"a", "b"});
  commit(*writer, [](Transaction& t) { t.put_int(at(t, {"a", "b", "y"}), 5); });
  Wait wait(*waiter);
  wait.arm(interests_of(*waiter, path));
  EXPECT_TRUE(worker::changed_since(Snapshot(*waiter), path, since));
}

TEST_F(WorkerWaiting, AWokenWaiterIsNotCalledAgainUntilItIsArmed) {
  const WatchedPath path = watched({"top"});
  Wait wait(*waiter);
  wait.arm(interests_of(*waiter, path));
  EXPECT_FALSE(wait.sleep(1'000'000)) << "nothing has happened";
  for (int i = 0; i < 3; ++i) {
    commit(*writer, [i](Transaction& t) { t.put_int(at(t, {"top"}), i); });
    EXPECT_TRUE(wait.woken());
  }
  EXPECT_TRUE(wait.sleep(kLongNs)) << "does not sleep on a wake-up it has not seen";
  wait.arm(interests_of(*waiter, path));
  EXPECT_FALSE(wait.woken());
  wait.wake();
  EXPECT_TRUE(wait.woken()) << "woken by its own process";
}

TEST_F(WorkerWaiting, ADeltaTooLargeToLookThroughWakesEverybody) {
  Wait wait(*waiter);
  wait.arm(interests_of(*waiter, watched({"top"})));
  commit(*writer, [](Transaction& t) {
    for (int i = 0; i < 400; ++i) t.put_int(at(t, {"a", "k" + std::to_string(i)}), i);
  });
  EXPECT_TRUE(wait.woken());
}

TEST_F(WorkerWaiting, ManyWaitersAndLargeDeltasWakeOnlyWhomTheyConcern) {
  commit(*writer, [](Transaction& t) {
    for (int i = 0; i < 200; ++i) t.put_int(at(t, {"k" + std::to_string(i)}), 0);
  });
  std::vector<std::unique_ptr<Wait>> waits;
  for (int i = 0; i < 200; ++i) {
    waits.push_back(std::make_unique<Wait>(*waiter));
    waits.back()->arm(interests_of(*waiter, watched({"k" + std::to_string(i)})));
  }
  commit(*writer, [](Transaction& t) {
    for (int i = 0; i < 200; i += 3) t.put_int(at(t, {"k" + std::to_string(i)}), 1);
  });
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(waits[static_cast<std::size_t>(i)]->woken(), i % 3 == 0) << i;
  }
}

TEST_F(WorkerWaiting, TheTableIsFull) {
  std::vector<std::unique_ptr<Wait>> waits;
  for (std::uint32_t i = 0; i < shm::kMaxWaiters; ++i) {
    waits.push_back(std::make_unique<Wait>(*waiter));
    waits.back()->arm(any_interest());
  }
  Wait one_more(*writer);
  try {
    one_more.arm(any_interest());
    ADD_FAILURE() << "there was room";
  } catch (const worker::Error& error) {
    EXPECT_NE(std::string(error.what()).find("2048"), std::string::npos) << error.what();
  }
  waits.erase(waits.begin() + 7);
  one_more.arm(any_interest());
  EXPECT_EQ(world.space().header().waiters.load(), shm::kMaxWaiters);
  waits.clear();
  one_more.disarm();
  EXPECT_EQ(world.space().header().waiters_high.load(), 0u) << "commits look at nobody any more";
}

TEST_F(WorkerWaiting, AReadSetKnowsWhatItHasRead) {
  struct Read {
    const char* name;
    std::function<void(Transaction&)> read;
    std::vector<std::string> changed_by;
  };
  const std::vector<Read> reads = {
      {"value",
       [](Transaction& t) {
         read(t, {"a", "x"});
       },
       {"a.x", "a deleted"}},
      {"absence",
       [](Transaction& t) {
         read(t, {"a", "b", "new"});
       },
       {"a.b.new", "a.b replaced", "a deleted", "a.b cleared"}},
      {"presence",
       [](Transaction& t) {
         t.contains(at(t, {"a", "b", "y"}));
       },
       {"a.b replaced", "a deleted", "a.b cleared"}},
      {"size",
       [](Transaction& t) {
         t.size(t.child(at(t, {"a", "b"})));
       },
       {"a.b.z deleted", "a.b.new", "a.b replaced", "a deleted", "a.b cleared"}},
      {"emptiness",
       [](Transaction& t) {
         t.empty(t.child(at(t, {"a", "b"})));
       },
       {"a.b replaced", "a deleted", "a.b cleared"}},
  };
  for (const Read& each : reads) {
    for (const Change& change : changes()) {
      World fresh(shm::kMinCapacityBytes);
      const auto one = fresh.attach(), other = fresh.attach();
      commit(*other, fill);
      Transaction transaction(*one);
      transaction.begin(Isolation::kSerializable);
      each.read(transaction);
      const ReadSet set = transaction.read_set();
      transaction.rollback();
      EXPECT_FALSE(set.empty());
      Interests interests;
      set.add_interests(&interests);
      Wait wait(*one);
      wait.arm(interests);
      EXPECT_FALSE(set.changed(Snapshot(*one)));
      commit(*other, change.apply);
      bool wanted = false;
      for (const std::string& name : each.changed_by) wanted = wanted || name == change.name;
      EXPECT_EQ(set.changed(Snapshot(*one)), wanted) << each.name << " by " << change.name;
      EXPECT_TRUE(wait.woken() || !wanted) << each.name << " by " << change.name;
    }
  }
}

TEST_F(WorkerWaiting, WhatWasReadBeforeAClearIsRemembered) {
  for (const bool has_read : {true, false}) {
    for (const Change& change : changes()) {
      World fresh(shm::kMinCapacityBytes);
      const auto one = fresh.attach(), other = fresh.attach();
      commit(*other, fill);
      Transaction transaction(*one);
      transaction.begin(Isolation::kSerializable);
      worker::Mapping* b = transaction.child(at(transaction, {"a", "b"}));
      if (has_read) transaction.read(transaction.entry(b, key("y")));
      transaction.clear(b);
      const ReadSet set = transaction.read_set();
      transaction.rollback();
      EXPECT_EQ(set.empty(), !has_read);
      Interests interests;
      set.add_interests(&interests);
      Wait wait(*one);
      wait.arm(interests);
      EXPECT_FALSE(set.changed(Snapshot(*one)));
      commit(*other, change.apply);
      const std::string name = change.name;
      const bool wanted = name != "top" && name != "a.x";
      EXPECT_EQ(set.changed(Snapshot(*one)), wanted) << name;
      EXPECT_TRUE(wait.woken() || !wanted) << name;
    }
  }
}

TEST_F(WorkerWaiting, ReadSetsThatAreTooLargeToNameStillWakeForTheirMappingsOnly) {
  commit(*writer, [](Transaction& t) {
    for (int i = 0; i < 100; ++i) t.put_int(at(t, {"a", "b", "k" + std::to_string(i)}), i);
  });
  Transaction transaction(*waiter);
  transaction.begin(Isolation::kSerializable);
  for (int i = 0; i < 100; ++i) read(transaction, {"a", "b", "k" + std::to_string(i)});
  const ReadSet set = transaction.read_set();
  transaction.rollback();
  Interests interests;
  set.add_interests(&interests);
  Wait wait(*waiter);
  wait.arm(interests);
  commit(*writer, [](Transaction& t) { t.put_int(at(t, {"c"}), 1); });
  commit(*writer, [](Transaction& t) { t.put_mapping(at(t, {"d"})); });
  EXPECT_FALSE(wait.woken());
  EXPECT_FALSE(set.changed(Snapshot(*waiter)));
  commit(*writer, [](Transaction& t) { t.put_int(at(t, {"a", "b", "k7"}), -1); });
  EXPECT_TRUE(wait.woken());
  EXPECT_TRUE(set.changed(Snapshot(*waiter)));
}

TEST_F(WorkerWaiting, AnEmptyMappingThatIsEmptyAgainHasNotChanged) {
  commit(*writer, [](Transaction& t) { t.clear(t.child(at(t, {"a", "b"}))); });
  Transaction transaction(*waiter);
  transaction.begin(Isolation::kSerializable);
  EXPECT_EQ(transaction.size(transaction.child(at(transaction, {"a", "b"}))), 0u);
  const ReadSet set = transaction.read_set();
  transaction.rollback();
  commit(*writer, [](Transaction& t) { t.put_int(at(t, {"a", "b", "job"}), 1); });
  EXPECT_TRUE(set.changed(Snapshot(*waiter)));
  commit(*writer, [](Transaction& t) { t.erase(at(t, {"a", "b", "job"})); });
  EXPECT_FALSE(set.changed(Snapshot(*waiter)));
}

TEST_F(WorkerWaiting, NothingReadIsAnEmptyReadSet) {
  Transaction transaction(*waiter);
  transaction.begin(Isolation::kSerializable);
  transaction.put_int(at(transaction, {"top"}), 1);
  EXPECT_TRUE(transaction.read_set().empty());
  transaction.rollback();
}

TEST_F(WorkerWaiting, WaitsOfADeadProcessComeBack) {
  const std::uint32_t slot = world.admit(getpid());
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork_worker(world, slot, [&](Session& session) {
    Wait first(session), second(session);
    first.arm(any_interest());
    second.arm(any_interest());
    const char byte = 1;
    EXPECT_EQ(write(ready[1], &byte, 1), 1);
    first.sleep(kLongNs);
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(world.space().header().waiters.load(), 2u);
  kill(child, SIGKILL);
  wait_for(child);
  close(ready[0]);
  close(ready[1]);
  world.evict(slot);
  EXPECT_EQ(world.space().header().waiters.load(), 0u);
}

// The owner dies with the lock, in the middle of a commit or behind it.
void die_with_lock(World& world, Session& session, bool in_commit) {
  EXPECT_TRUE(world.arbiter().try_lock());
  if (in_commit) world.space().writable().working_slot.store(session.slot() + 1);
  kill(getpid(), SIGKILL);
}

TEST_F(WaitingDeath, ADeathWithTheLockWakesEverybody) {
  for (const bool in_commit : {true, false}) {
    Wait wait(*waiter);
    wait.arm(any_interest());
    const std::uint32_t slot = world.admit(getpid());
    wait_for(fork_worker(world, slot,
                         [&](Session& session) { die_with_lock(world, session, in_commit); }));
    EXPECT_FALSE(wait.woken());
    world.evict(slot);
    EXPECT_TRUE(wait.woken()) << "the repair does not know whom it had told";
  }
}

TEST_F(WaitingDeath, ADeathBetweenTheWordAndTheCallWakesTheSleeper) {
  Wait wait(*waiter);
  wait.arm(any_interest());
  std::atomic<pid_t> id{0};
  std::atomic<bool> called{false};
  std::thread sleeper([&] {
    id.store(gettid());
    called.store(wait.sleep(kLongNs));
  });
  while (id.load() == 0 || state_of(id.load()) != 'S') std::this_thread::yield();
  const std::uint32_t slot = world.admit(getpid());
  wait_for(fork_worker(world, slot, [&](Session& session) {
    world.space().writable().waiting_table[0].wake.store(1);
    die_with_lock(world, session, true);
  }));
  world.evict(slot);
  sleeper.join();
  EXPECT_TRUE(called.load());
}

// Two workers take turns; each sleeps until the other has counted.
void take_turns(World& world, Kind kind) {
  constexpr int kRounds = 2000;
  {
    const auto session = world.attach();
    commit(*session, [](Transaction& t) { t.put_int(at(t, {"turns"}), 0); });
  }
  run_workers(world, kind, 2, [&](Session& session, int me) {
    const WatchedPath path = watched({"turns"});
    Wait wait(session);
    for (int round = 0; round < kRounds; ++round) {
      for (;;) {
        wait.arm(interests_of(session, path));
        {
          Snapshot snapshot(session);
          if (read(snapshot, {"turns"}).integer % 2 == me) break;
        }
        ASSERT_TRUE(wait.sleep(kLongNs)) << "a wake-up was lost in round " << round;
      }
      commit(session,
             [](Transaction& t) { t.put_int(at(t, {"turns"}), read(t, {"turns"}).integer + 1); });
    }
  });
  const auto session = world.attach();
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"turns"}).integer, 2 * kRounds);
}

TEST_F(WorkerWaiting, NoWakeUpIsLostBetweenThreads) { take_turns(world, Kind::kThreads); }
TEST_F(WorkerWaiting, NoWakeUpIsLostBetweenProcesses) {
  World fresh(shm::kMinCapacityBytes);
  take_turns(fresh, Kind::kProcesses);
}

}  // namespace
}  // namespace theus::testing
