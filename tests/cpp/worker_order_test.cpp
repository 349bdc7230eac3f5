// The order of a mapping's entries, read from both ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Order;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using Names = std::vector<std::string>;

Names names(Snapshot& snapshot, Order order) {
  Names result;
  Snapshot::Cursor cursor = snapshot.iterate(read(snapshot, {"m"}).node, order);
  shm::KeyView key;
  worker::Value value;
  while (snapshot.next(cursor, &key, &value)) result.emplace_back(key.whole());
  return result;
}
Names names(Transaction& t, Mapping* mapping, Order order) {
  Names result;
  Transaction::Cursor cursor = t.iterate(mapping, order);
  while (Entry* each = t.next(cursor)) result.emplace_back(each->key.whole());
  return result;
}
Names reversed(Names all) {
  std::reverse(all.begin(), all.end());
  return all;
}
// Keys that differ in size, so that a place is never right by chance.
std::string name(int i) {
  return std::string(static_cast<std::size_t>(i % 7), 'x') + std::to_string(i);
}

class WorkerOrder : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& t) { t.put_mapping(at(t, {"m"})); });
  }
  void TearDown() override {
    session.reset();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  void fill(int from, int to) {
    commit(*session, [=](Transaction& t) {
      for (int i = from; i < to; ++i) t.put_int(at(t, {"m", name(i)}), i);
    });
  }
  // Takes the first entry from that end; the number of places that were looked at.
  static std::uint64_t take(Transaction& t, Mapping* m, Order order, std::string* taken) {
    Transaction::Cursor cursor = t.iterate(m, order);
    Entry* entry = t.next(cursor);
    taken->assign(entry == nullptr ? "" : entry->key.whole());
    if (entry != nullptr) t.erase(entry);
    return cursor.shared.looked;
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
};
class WorkerEnds : public WorkerOrder, public ::testing::WithParamInterface<Order> {};

// A transaction that takes entry after entry passes each once and not all those it has taken.
TEST_P(WorkerEnds, TakingAllEntriesIsLinear) {
  for (const int n : {500, 4000}) {
    fill(0, n);
    Transaction t(*session);
    t.begin(Isolation::kSerializable);
    Mapping* m = t.child(at(t, {"m"}));
    std::uint64_t looked = 0;
    std::string taken;
    for (int i = 0; i < n; ++i) {
      looked += take(t, m, GetParam(), &taken);
      EXPECT_EQ(taken, name(GetParam() == Order::kForward ? i : n - 1 - i));
    }
    looked += take(t, m, GetParam(), &taken);
    EXPECT_EQ(taken, "");
    EXPECT_LE(looked, 3u * static_cast<unsigned>(n));  // with those of before that are dead
    EXPECT_EQ(t.commit().status, worker::CommitResult::Status::kCommitted);
  }
}

// The end of a large mapping is as near as that of a small one.
TEST_P(WorkerEnds, TheFirstOneIsOneStepAway) {
  fill(0, 5000);
  Snapshot snapshot(*session);
  Snapshot::Cursor cursor = snapshot.iterate(read(snapshot, {"m"}).node, GetParam());
  shm::KeyView key;
  worker::Value value;
  ASSERT_TRUE(snapshot.next(cursor, &key, &value));
  EXPECT_EQ(value.integer, GetParam() == Order::kForward ? 0 : 4999);
  EXPECT_EQ(cursor.looked, 1u);
}

// Nor does it pass again and again what others' pins keep, in transactions of its own each.
TEST_P(WorkerEnds, TakingOneByOneUnderAnOldSnapshotIsLinear) {
  for (const int n : {500, 4000}) {
    fill(0, n);
    Snapshot old(*session);
    std::uint64_t looked = 0;
    std::string taken;
    const auto take_one = [&](Transaction& t) {
      looked += take(t, t.child(at(t, {"m"})), GetParam(), &taken);
    };
    for (int i = 0; i < n; ++i) {
      commit(*session, take_one);
      ASSERT_EQ(taken, name(GetParam() == Order::kForward ? i : n - 1 - i));
      if (i % 100 != 0) continue;
      // What has been put behind the dead ones is the last, and the first only when all have gone.
      commit(*session, [&](Transaction& t) { t.put_int(at(t, {"m", "between"}), i); });
      Snapshot now(*session);
      ASSERT_EQ(names(now, Order::kBackward).front(), "between");
      ASSERT_EQ(names(now, Order::kBackward), reversed(names(now, Order::kForward)));
      ASSERT_EQ(names(old, Order::kBackward).size(), static_cast<std::size_t>(n));
      commit(*session, [&](Transaction& t) { t.erase(at(t, {"m", "between"})); });
    }
    for (int i = 0; i < n; ++i) {
      Transaction t(*session);
      t.begin(Isolation::kSerializable);
      take_one(t);
      ASSERT_EQ(taken, "");
    }
    EXPECT_LE(looked, 50u * static_cast<unsigned>(n));
  }
}

// What a session remembers may have left the order meanwhile, and may look as it did.
TEST_F(WorkerOrder, WhatIsRememberedMayBeGone) {
  constexpr int kTwoChunks = 2 * 29;
  fill(0, kTwoChunks);
  std::string taken;
  {
    Snapshot old(*session);
    for (int i = 0; i <= kTwoChunks; ++i) {
      commit(*session,
             [&](Transaction& t) { take(t, t.child(at(t, {"m"})), Order::kForward, &taken); });
    }
  }
  world.reclaim_all();
  // By another: this session would take the very cells again, and show it by their generation.
  auto other = world.attach();
  commit(*other, [](Transaction& t) { t.put_int(at(t, {"m", "z"}), 1); });
  Snapshot now(*session);
  EXPECT_EQ(names(now, Order::kForward), Names{"z"});
  EXPECT_EQ(names(now, Order::kBackward), Names{"z"});
  now.close();
  other.reset();
}

TEST_F(WorkerOrder, OwnChangesFromTheEnd) {
  fill(0, 4);
  Transaction t(*session);
  t.begin(Isolation::kSerializable);
  Mapping* m = t.child(at(t, {"m"}));
  const auto in_m = [&](int i) { return t.entry(m, key(name(i))); };
  t.put_int(in_m(1), 100);  // replaced: stays where it is
  t.erase(in_m(0));
  t.put_int(in_m(0), 0);  // moves to the end
  t.put_int(in_m(7), 7);
  t.erase(in_m(2));
  t.put_int(in_m(8), 8);
  t.erase(in_m(8));
  t.put_int(in_m(2), 2);
  EXPECT_EQ(names(t, m, Order::kForward), (Names{name(1), name(3), name(0), name(7), name(2)}));
  EXPECT_EQ(names(t, m, Order::kBackward), reversed(names(t, m, Order::kForward)));
  std::string taken;
  for (const int i : {2, 7, 0, 3, 1}) {
    take(t, m, Order::kBackward, &taken);
    EXPECT_EQ(taken, name(i));
  }
  t.put_int(in_m(3), 3);  // after all had been passed
  EXPECT_EQ(names(t, m, Order::kBackward), Names{name(3)});
  EXPECT_EQ(names(t, m, Order::kForward), Names{name(3)});
  t.clear(m);
  EXPECT_EQ(names(t, m, Order::kBackward), Names{});
  t.put_int(in_m(1), 1);
  EXPECT_EQ(names(t, m, Order::kBackward), Names{name(1)});
}

// A model of insertions, deletions and moves; snapshots of several versions stay open while the
// reclaimer takes what none of them sees.
TEST_F(WorkerOrder, BothDirectionsShowTheSameAtEveryVersion) {
  std::mt19937 random(7);
  std::list<std::string> model;
  struct Held {
    std::unique_ptr<Snapshot> snapshot;
    Names wanted;
  };
  std::list<Held> held;
  for (int round = 0; round < 400; ++round) {
    commit(*session, [&](Transaction& t) {
      const int operations = 1 + static_cast<int>(random() % 40);
      for (int i = 0; i < operations; ++i) {
        const std::string chosen = name(static_cast<int>(random() % 120));
        Entry* entry = at(t, {"m", chosen});
        const bool absent = entry->value.kind == worker::Value::Kind::kAbsent;
        // Sometimes nearly empty, sometimes nearly full.
        const bool put = random() % 10 < (round / 50 % 2 == 0 ? 8u : 2u);
        if (put || absent) {
          t.put_int(entry, round);
          if (absent) model.push_back(chosen);
        } else {
          t.erase(entry);
          model.remove(chosen);
        }
      }
    });
    if (random() % 4 == 0) {
      held.push_back({std::make_unique<Snapshot>(*session), Names(model.begin(), model.end())});
    }
    if (held.size() > 5) held.erase(std::next(held.begin(), static_cast<long>(random() % 5)));
    if (random() % 3 == 0) world.reclaim_all();
    for (Held& each : held) {
      ASSERT_EQ(names(*each.snapshot, Order::kForward), each.wanted) << round;
      ASSERT_EQ(names(*each.snapshot, Order::kBackward), reversed(each.wanted)) << round;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, WorkerEnds, ::testing::Values(Order::kForward, Order::kBackward),
                         [](const auto& each) {
                           return each.param == Order::kForward ? "FromTheStart" : "FromTheEnd";
                         });

// Chunks come and go at both ends, and cells wander between two mappings, while others read.
class OrderConcurrently : public ::testing::TestWithParam<Kind> {};

TEST_P(OrderConcurrently, ReadersFromBothEndsAgree) {
  World world;
  auto session = world.attach();
  commit(*session, [](Transaction& t) {
    t.put_mapping(at(t, {"m"}));
    t.put_mapping(at(t, {"other"}));
  });
  constexpr int kRounds = 1500;
  run_workers(world, GetParam(), 4, [](Session& s, int w) {
    if (w < 2) {
      std::mt19937 random(static_cast<unsigned>(w));
      for (int round = 0; round < kRounds; ++round) {
        const char* where = random() % 2 == 0 ? "m" : "other";
        const int count = 1 + static_cast<int>(random() % 30);
        const unsigned what = random() % 4;
        commit(s, [&](Transaction& t) {
          Mapping* m = t.child(at(t, {where}));
          const Order end = what == 2 ? Order::kForward : Order::kBackward;
          for (int i = 0; i < count; ++i) {
            if (what < 2) {
              t.put_int(t.entry(m, key(name(w * 1'000'000 + round * 100 + i))), i);
              continue;
            }
            Transaction::Cursor cursor = t.iterate(m, end);
            if (Entry* entry = t.next(cursor)) t.erase(entry);
          }
        });
      }
      return;
    }
    for (int round = 0; round < kRounds; ++round) {
      Snapshot snapshot(s);
      const Names forward = names(snapshot, Order::kForward);
      ASSERT_EQ(names(snapshot, Order::kBackward), reversed(forward));
      ASSERT_EQ(snapshot.size(read(snapshot, {"m"}).node), forward.size());
    }
  });
  session.reset();
  world.reclaim_all();
}

INSTANTIATE_TEST_SUITE_P(Kinds, OrderConcurrently,
                         ::testing::Values(Kind::kThreads, Kind::kProcesses),
                         [](const auto& each) { return name_of(each.param); });

}  // namespace
}  // namespace theus::testing
