// The promises of the engine, over worker threads on one mapping and over worker processes.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;
using Status = CommitResult::Status;

class Conformance : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { session = world.attach(); }
  void TearDown() override { session.reset(); }

  World world;
  std::unique_ptr<Session> session;
};

TEST_P(Conformance, ReadsWhatWasCommitted) {
  commit(*session, [](Transaction& t) {
    t.put_int(at(t, {"a"}), 7);
    t.put_str(at(t, {"name"}), "short");
    t.put_str(at(t, {"long"}), std::string(1000, 'x'));
    t.put_float(at(t, {"f"}), 0.5);
    t.put_none(at(t, {"none"}));
    t.put_bool(at(t, {"yes"}), true);
    t.put_bytes(at(t, {"bytes"}), std::string_view("\0\1", 2));
  });
  run_workers(world, GetParam(), 2, [](Session& s, int) {
    Snapshot snapshot(s);
    EXPECT_EQ(read(snapshot, {"a"}).integer, 7);
    EXPECT_EQ(read(snapshot, {"name"}).bytes(), "short");
    EXPECT_EQ(read(snapshot, {"long"}).bytes(), std::string(1000, 'x'));
    EXPECT_EQ(read(snapshot, {"f"}).real, 0.5);
    EXPECT_EQ(read(snapshot, {"none"}).kind, Value::Kind::kNone);
    EXPECT_EQ(read(snapshot, {"yes"}).kind, Value::Kind::kTrue);
    EXPECT_EQ(read(snapshot, {"bytes"}).bytes(), std::string_view("\0\1", 2));
    EXPECT_EQ(read(snapshot, {"absent"}).kind, Value::Kind::kAbsent);
    EXPECT_EQ(snapshot.size(snapshot.root()), 7u);
  });
}

TEST_P(Conformance, IncrementsAddUp) {
  constexpr int kWorkers = 4, kEach = 2000;
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"n"}), 0); });
  run_workers(world, GetParam(), kWorkers, [](Session& s, int) {
    for (int i = 0; i < kEach; ++i) {
      commit(s, [](Transaction& t) {
        const std::int64_t n = read(t, {"n"}).integer;
        t.put_int(at(t, {"n"}), n + 1);
      });
    }
  });
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"n"}).integer, kWorkers * kEach);
}

TEST_P(Conformance, DisjointKeysNeverConflict) {
  constexpr int kWorkers = 3, kEach = 500;
  commit(*session, [](Transaction& t) {
    auto* m = t.put_mapping(at(t, {"m"}));
    for (int w = 0; w < kWorkers; ++w) t.put_int(t.entry(m, key(std::to_string(w))), 0);
  });
  run_workers(world, GetParam(), kWorkers, [](Session& s, int w) {
    const std::string mine = std::to_string(w);
    Transaction t(s);
    for (int i = 0; i < kEach; ++i) {
      t.begin(Isolation::kSerializable);
      Entry* entry = at(t, {"m", mine});
      t.put_int(entry, t.read(entry).integer + 1);
      ASSERT_EQ(t.commit().status, Status::kCommitted);
    }
  });
  Snapshot snapshot(*session);
  for (int w = 0; w < kWorkers; ++w) {
    EXPECT_EQ(read(snapshot, {"m", std::to_string(w)}).integer, kEach);
  }
}

TEST_P(Conformance, InsertsIntoOneMappingKeepOrderAndCount) {
  constexpr int kWorkers = 3, kEach = 400;
  commit(*session, [](Transaction& t) { t.put_mapping(at(t, {"m"})); });
  run_workers(world, GetParam(), kWorkers, [](Session& s, int w) {
    for (int i = 0; i < kEach; ++i) {
      const std::string name = std::to_string(w) + "-" + std::to_string(i);
      commit(s, [&](Transaction& t) { t.put_int(at(t, {"m", name}), i); });
    }
  });
  Snapshot snapshot(*session);
  const auto names = keys(snapshot, {"m"});
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kWorkers * kEach));
  EXPECT_EQ(snapshot.size(read(snapshot, {"m"}).node), names.size());
  // Each worker's keys stand in the order in which it inserted them.
  std::vector<int> next(kWorkers, 0);
  for (const std::string& name : names) {
    const int w = name[0] - '0';
    EXPECT_EQ(name, std::to_string(w) + "-" + std::to_string(next[static_cast<std::size_t>(w)]++));
  }
}

TEST_P(Conformance, TransfersKeepTheTotal) {
  constexpr int kAccounts = 20, kWorkers = 3, kEach = 600;
  commit(*session, [](Transaction& t) {
    auto* m = t.put_mapping(at(t, {"accounts"}));
    for (int i = 0; i < kAccounts; ++i) t.put_int(t.entry(m, key(std::to_string(i))), 100);
  });
  run_workers(world, GetParam(), kWorkers, [](Session& s, int w) {
    unsigned random = static_cast<unsigned>(w) * 7919u + 1;
    for (int i = 0; i < kEach; ++i) {
      random = random * 1103515245u + 12345u;
      const std::string from = std::to_string(random / 65536 % kAccounts);
      const std::string to = std::to_string((random / 65536 + 7) % kAccounts);
      commit(s, [&](Transaction& t) {
        Entry* a = at(t, {"accounts", from});
        Entry* b = at(t, {"accounts", to});
        t.put_int(a, t.read(a).integer - 1);
        t.put_int(b, t.read(b).integer + 1);
      });
      // Every snapshot, whenever taken, adds up.
      Snapshot snapshot(s);
      std::int64_t sum = 0;
      for (int n = 0; n < kAccounts; ++n) {
        sum += read(snapshot, {"accounts", std::to_string(n)}).integer;
      }
      ASSERT_EQ(sum, 100 * kAccounts);
    }
  });
}

TEST_P(Conformance, ReplacedRowsAreNeverTorn) {
  constexpr int kRows = 8, kEach = 300;
  auto put_row = [](Transaction& t, const std::string& row, int n) {
    auto* m = t.put_mapping(at(t, {"rows", row}));
    for (const char* field : {"a", "b", "c", "d", "e", "f"}) t.put_int(t.entry(m, key(field)), n);
  };
  commit(*session, [&](Transaction& t) {
    t.put_mapping(at(t, {"rows"}));
    for (int i = 0; i < kRows; ++i) put_row(t, std::to_string(i), 0);
  });
  run_workers(world, GetParam(), 3, [&](Session& s, int w) {
    for (int i = 0; i < kEach; ++i) {
      const std::string row = std::to_string((i * 5 + w) % kRows);
      if (i % 2 == w % 2) commit(s, [&](Transaction& t) { put_row(t, row, i); });
      Snapshot snapshot(s);
      const Value found = read(snapshot, {"rows", row});
      ASSERT_EQ(found.kind, Value::Kind::kMapping);
      Snapshot::Cursor cursor = snapshot.iterate(found.node);
      shm::KeyView each;
      Value value;
      int fields = 0;
      std::int64_t first = 0;
      while (snapshot.next(cursor, &each, &value)) {
        if (fields++ == 0) first = value.integer;
        ASSERT_EQ(value.integer, first);
      }
      ASSERT_EQ(fields, 6);
    }
  });
}

TEST_P(Conformance, DeletesAndReinsertsUnderSnapshots) {
  constexpr int kEach = 400;
  commit(*session, [](Transaction& t) { t.put_mapping(at(t, {"m"})); });
  run_workers(world, GetParam(), 3, [&](Session& s, int w) {
    const std::string mine = "k" + std::to_string(w);
    for (int i = 0; i < kEach; ++i) {
      commit(s, [&](Transaction& t) { t.put_str(at(t, {"m", mine}), "value"); });
      Snapshot with(s);
      commit(s, [&](Transaction& t) { ASSERT_TRUE(t.erase(at(t, {"m", mine}))); });
      Snapshot without(s);
      ASSERT_EQ(read(with, {"m", mine}).bytes(), "value");
      ASSERT_EQ(read(without, {"m", mine}).kind, Value::Kind::kAbsent);
      const auto listed = keys(with, {"m"});
      ASSERT_EQ(listed.size(), with.size(read(with, {"m"}).node));
    }
  });
  Snapshot snapshot(*session);
  EXPECT_EQ(snapshot.size(read(snapshot, {"m"}).node), 0u);
}

TEST_P(Conformance, IterationsAndCountsShowNothingOfACommitUnderWay) {
  constexpr int kRounds = 1500, kBatch = 20;
  commit(*session, [](Transaction& t) { t.put_mapping(at(t, {"m"})); });
  run_workers(world, GetParam(), 4, [](Session& s, int w) {
    for (int round = 0; round < kRounds; ++round) {
      if (w < 2) {
        // New keys each time: their records are those that no version has seen yet.
        const std::string prefix = std::to_string(w) + "-" + std::to_string(round / 2) + "-";
        commit(s, [&](Transaction& t) {
          for (int i = 0; i < kBatch; ++i) {
            Entry* entry = at(t, {"m", prefix + std::to_string(i)});
            round % 2 == 0 ? t.put_int(entry, i) : static_cast<void>(t.erase(entry));
          }
        });
        continue;
      }
      Snapshot snapshot(s);
      const auto names = keys(snapshot, {"m"});
      ASSERT_EQ(names.size() % kBatch, 0u);
      ASSERT_EQ(snapshot.size(read(snapshot, {"m"}).node), names.size());
    }
  });
}

TEST_P(Conformance, LargeNewMappingsAreLinkedPieceByPiece) {
  constexpr int kKeys = 5000;
  auto build = [](Transaction& t) {
    auto* big = t.put_mapping(at(t, {"big"}));
    for (int i = 0; i < kKeys; ++i) t.put_int(t.entry(big, key(std::to_string(i))), i);
    auto* rows = t.put_mapping(t.entry(big, key("rows")));
    for (int r = 0; r < 60; ++r) {
      auto* row = t.put_mapping(t.entry(rows, key(std::to_string(r))));
      for (int f = 0; f < 6 + r; ++f) t.put_int(t.entry(row, key(std::to_string(f))), r);
    }
  };
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"n"}), 0); });
  // One that conflicts leaves nothing; one that commits is whole.
  Transaction loser(*session);
  loser.begin(Isolation::kSerializable);
  loser.read(at(loser, {"n"}));
  build(loser);
  run_workers(world, GetParam(), 1, [](Session& s, int) {
    commit(s, [](Transaction& t) { t.put_int(at(t, {"n"}), 1); });
  });
  EXPECT_EQ(loser.commit().status, Status::kConflict);
  {
    const Audit between = audit(world, false);
    EXPECT_TRUE(between.faults.empty()) << between.text();
    EXPECT_EQ(between.live_leaves, 1u);
  }
  world.reclaim_all();
  EXPECT_EQ(world.space().header().key_count.load(), 1u);
  commit(*session, build);
  {
    Snapshot snapshot(*session);
    const auto names = keys(snapshot, {"big"});
    ASSERT_EQ(names.size(), static_cast<std::size_t>(kKeys) + 1);
    EXPECT_EQ(names[4321], "4321");
    EXPECT_EQ(read(snapshot, {"big", "4999"}).integer, 4999);
    EXPECT_EQ(read(snapshot, {"big", "rows", "59", "64"}).integer, 59);
    EXPECT_EQ(snapshot.size(read(snapshot, {"big", "rows", "59"}).node), 65u);
  }
  commit(*session, [](Transaction& t) { t.erase(at(t, {"big"})); });
  world.reclaim_all();
  EXPECT_EQ(world.space().header().key_count.load(), 1u);
  session.reset();
  const Audit result = audit(world, true);
  EXPECT_TRUE(result.faults.empty()) << result.text();
}

TEST_P(Conformance, NobodySpendsWhatOthersHaveSpent) {
  // Each looks at all accounts before it adds to one; nothing but its read set keeps the sum from
  // going above the limit. Large read sets are validated by their workers, one small one always.
  constexpr int kAccounts = 1200, kLimit = 120;
  commit(*session, [](Transaction& t) {
    auto* m = t.put_mapping(at(t, {"spent"}));
    for (int i = 0; i < kAccounts; ++i) t.put_int(t.entry(m, key(std::to_string(i))), 0);
    t.put_mapping(at(t, {"noise"}));
  });
  run_workers(world, GetParam(), 4, [](Session& s, int w) {
    if (w == 0) {
      s.internals().validate_above = 0;
      for (int i = 0; i < 3000; ++i) {
        commit(s, [&](Transaction& t) {
          Entry* e = at(t, {"noise", std::to_string(i % 100)});
          i % 7 == 0 ? static_cast<void>(t.erase(e)) : t.put_int(e, i);
        });
      }
      return;
    }
    for (bool left = true; left;) {
      commit(s, [&](Transaction& t) {
        auto* m = t.child(at(t, {"spent"}));
        std::int64_t sum = 0;
        for (int i = 0; i < kAccounts; ++i) {
          sum += t.read(t.entry(m, key(std::to_string(i)))).integer;
        }
        t.read(at(t, {"noise", "absent"}));
        left = sum < kLimit;
        if (!left) return;
        const auto account = (sum * 7 + w * 400) % kAccounts;
        Entry* mine = t.entry(m, key(std::to_string(account)));
        t.put_int(mine, t.read(mine).integer + 1);
      });
    }
  });
  Snapshot snapshot(*session);
  std::int64_t sum = 0;
  for (int i = 0; i < kAccounts; ++i) {
    sum += read(snapshot, {"spent", std::to_string(i)}).integer;
  }
  EXPECT_EQ(sum, kLimit);
}

TEST_P(Conformance, ALongTransactionAmongShortOnesIsGivenItsTurn) {
  constexpr int kKeys = 300;
  commit(*session, [](Transaction& t) {
    t.put_int(at(t, {"stop"}), 0);
    auto* m = t.put_mapping(at(t, {"m"}));
    for (int i = 0; i < kKeys; ++i) t.put_int(t.entry(m, key(std::to_string(i))), 0);
  });
  run_workers(world, GetParam(), 3, [](Session& s, int w) {
    if (w != 0) {
      // Short ones, without a pause, until the long one has committed.
      for (int i = 0; i < 2'000'000; ++i) {
        bool stop = false;
        commit(s, [&](Transaction& t) {
          stop = read(t, {"stop"}).integer != 0;
          Entry* e = at(t, {"m", std::to_string(i % kKeys)});
          t.put_int(e, t.read(e).integer + 1);
        });
        if (stop) return;
      }
      FAIL() << "the long transaction never committed";
    }
    Transaction t(s);
    for (int attempt = 0; attempt < 17; ++attempt) {
      if (attempt >= 4) t.claim_turn({.nanoseconds = 200'000'000});
      t.begin(Isolation::kSerializable);
      std::int64_t sum = 0;
      // Long enough that somebody commits meanwhile, unless he may not.
      for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < kKeys; ++i) sum += read(t, {"m", std::to_string(i)}).integer;
        std::this_thread::yield();
      }
      t.put_int(at(t, {"stop"}), 1 + sum % 2);
      if (t.commit().status == Status::kCommitted) return;
    }
    ADD_FAILURE() << "never committed";
    commit(s, [](Transaction& u) { u.put_int(at(u, {"stop"}), 1); });
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, Conformance, ::testing::Values(Kind::kThreads, Kind::kProcesses),
                         [](const auto& param_info) { return name_of(param_info.param); });

}  // namespace
}  // namespace theus::testing
