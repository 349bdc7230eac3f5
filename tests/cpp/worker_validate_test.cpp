// Large read sets: validated by their worker, so that the arbiter looks only at what was written
// since. Whatever happens between the two is found, and nothing else.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "shm/read_set.h"
#include "shm/tables.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using shm::kRingPerDelta;
using shm::kRingWalk;
using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using Status = CommitResult::Status;

std::string numbered(int i) { return "k" + std::to_string(i); }

class WorkerValidate : public ::testing::Test {
 protected:
  static constexpr int kKeys = 20'000;  // far more than fit into a desk

  void SetUp() override {
    for (int i = 0; i < kKeys; i += 5000) {
      commit(*other, [i](Transaction& t) {
        Mapping* m = i == 0 ? t.put_mapping(at(t, {"m"})) : t.child(at(t, {"m"}));
        for (int k = i; k < i + 5000; ++k) t.put_int(t.entry(m, key(numbered(k))), 0);
        if (i != 0) return;
        Mapping* elsewhere = t.put_mapping(at(t, {"elsewhere"}));
        for (int k = 0; k < 3000; ++k) t.put_int(t.entry(elsewhere, key(numbered(k))), 0);
        t.put_int(at(t, {"sum"}), 0);
      });
    }
  }
  void TearDown() override {
    reader.reset();
    other.reset();
    world.reclaim_all();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }

  // Reads every key of "m", looks for 2,000 that are not there, and writes "sum"; `meanwhile(n)`
  // runs before the n-th request (from 1).
  CommitResult sum(const std::function<void(int)>& meanwhile,
                   const std::function<void()>& before_commit = nullptr) {
    requests = 0;
    reader->internals().before_request = [&] { meanwhile(++requests); };
    transaction.begin(Isolation::kSerializable);
    Mapping* m = transaction.child(at(transaction, {"m"}));
    std::int64_t total = 0;
    for (int i = 0; i < kKeys; ++i) {
      total += transaction.read(transaction.entry(m, key(numbered(i)))).integer;
    }
    for (int i = 0; i < 2000; ++i) {
      transaction.contains(transaction.entry(m, key("absent " + std::to_string(i))));
    }
    transaction.put_int(at(transaction, {"sum"}), total);
    if (before_commit) before_commit();
    const CommitResult result = transaction.commit();
    reader->internals().before_request = nullptr;
    return result;
  }
  void write(std::string_view mapping, int from, int count = 1) {
    commit(*other, [&](Transaction& t) {
      Mapping* m = t.child(at(t, {mapping}));
      for (int i = from; i < from + count; ++i) t.put_int(t.entry(m, key(numbered(i))), 1);
    });
  }
  void write_one_by_one(int count) {
    for (int i = 0; i < count; ++i) write("elsewhere", i % 3000);
  }
  void insert(std::string_view name) {
    commit(*other, [&](Transaction& t) { t.put_int(at(t, {"m", name}), 1); });
  }
  void erase(std::string_view name) {
    commit(*other, [&](Transaction& t) { t.erase(at(t, {"m", name})); });
  }

  World world;
  std::unique_ptr<Session> other = world.attach(), reader = world.attach();
  Transaction transaction{*reader};
  int requests = 0;
};

TEST_F(WorkerValidate, NothingHappens) {
  EXPECT_EQ(sum([](int) {}).status, Status::kCommitted);
  EXPECT_EQ(requests, 1);
  Snapshot snapshot(*reader);
  EXPECT_EQ(read(snapshot, {"sum"}).integer, 0);
}

TEST_F(WorkerValidate, AKeyThatWasReadIsWrittenInBetween) {
  for (const int which : {0, kKeys / 3, kKeys - 1}) {
    const CommitResult result = sum([&](int) { write("m", which); });
    ASSERT_EQ(result.status, Status::kConflict) << which;
    ASSERT_NE(result.conflict, nullptr);
    EXPECT_EQ(result.conflict->key.whole(), numbered(which));
    EXPECT_EQ(result.winner_version, reader->version());
    EXPECT_EQ(result.winner_pid, static_cast<std::uint32_t>(getpid()));
    EXPECT_EQ(requests, 1);
  }
}

TEST_F(WorkerValidate, AKeyThatWasReadHasBeenWrittenBefore) {
  // Found by the worker: nothing is submitted.
  for (const int which : {0, kKeys / 3, kKeys - 1}) {
    const CommitResult result = sum([](int) {}, [&] { write("m", which); });
    ASSERT_EQ(result.status, Status::kConflict) << which;
    EXPECT_EQ(result.conflict->key.whole(), numbered(which));
    EXPECT_EQ(result.winner_version, reader->version());
    EXPECT_EQ(result.winner_pid, static_cast<std::uint32_t>(getpid()));
    EXPECT_EQ(requests, 0);
  }
  EXPECT_EQ(reader->stats().conflicts, 3u);
}

TEST_F(WorkerValidate, AKeyThatWasDeletedOrInserted) {
  const auto conflicts = [&](const std::function<void()>& change) {
    return sum([&](int) { change(); }).status == Status::kConflict;
  };
  EXPECT_TRUE(conflicts([&] { erase(numbered(7)); }));
  // Absent now, and comes back: in a new place, or as a key whose record has gone in between.
  EXPECT_TRUE(conflicts([&] { insert(numbered(7)); }));
  const CommitResult named = sum([&](int) { insert("absent 1999"); });
  ASSERT_EQ(named.status, Status::kConflict);
  ASSERT_NE(named.conflict, nullptr);
  EXPECT_EQ(named.conflict->key.whole(), "absent 1999");
  EXPECT_FALSE(conflicts([&] { insert("never looked for"); }));
  EXPECT_TRUE(conflicts([&] {
    erase(numbered(8));
    insert(numbered(8));
  }));
  EXPECT_TRUE(conflicts([&] {
    insert("absent 5");
    erase("absent 5");
    world.reclaim_all();
    insert("absent 5");
  }));
}

TEST_F(WorkerValidate, AKeyThatCameAndWentIsAbsent) {
  EXPECT_EQ(sum([&](int) {
              insert("absent 3");
              erase("absent 3");
            }).status,
            Status::kCommitted);
  // Its record is gone, too, and the cell somebody else's.
  EXPECT_EQ(sum([&](int) {
              insert("absent 4");
              erase("absent 4");
              world.reclaim_all();
              insert("something else");
            }).status,
            Status::kCommitted);
}

TEST_F(WorkerValidate, WritesElsewhereDoNotMatter) {
  EXPECT_EQ(sum([&](int) { write_one_by_one(kRingWalk / 2); }).status, Status::kCommitted);
  EXPECT_EQ(requests, 1);
  EXPECT_EQ(sum([&](int) { write("elsewhere", 0, kRingPerDelta - 1); }).status, Status::kCommitted);
  EXPECT_EQ(requests, 1);
}

TEST_F(WorkerValidate, ManyWritesAreCaughtUpWith) {
  // More than one hold of the lock looks at: it is submitted again from where the arbiter stopped,
  // and not validated again.
  const int writes = static_cast<int>(3 * kRingWalk + kRingWalk / 2);
  EXPECT_EQ(sum([&](int n) {
              if (n == 1) write_one_by_one(writes);
            }).status,
            Status::kCommitted);
  EXPECT_EQ(requests, 4);
  // The one that matters comes first, or last, or while it catches up.
  for (const int when : {0, 1, 2}) {
    const CommitResult result = sum([&](int n) {
      if (n == 1 && when == 0) write("m", 5);
      if (n == 1) write_one_by_one(writes);
      if (n == 1 && when == 1) write("m", 5);
      if (n == 3 && when == 2) write("m", 5);
    });
    EXPECT_EQ(result.status, Status::kConflict);
    EXPECT_EQ(requests, when == 0 ? 1 : 4);
  }
}

TEST_F(WorkerValidate, TheFirstThatOneHoldDoesNotLookAtIsLookedAtNext) {
  for (const int before : {-1, 0, 1}) {
    EXPECT_EQ(sum([&](int n) {
                if (n != 1) return;
                write_one_by_one(static_cast<int>(kRingWalk) + before);
                write("m", 5);
                write_one_by_one(10);
              }).status,
              Status::kConflict)
        << before;
    EXPECT_EQ(requests, before < 0 ? 1 : 2);
  }
}

TEST_F(WorkerValidate, ADeltaTooLargeForTheRingIsValidatedAgain) {
  EXPECT_EQ(sum([&](int n) {
              if (n == 1) write("elsewhere", 0, 2 * kRingPerDelta);
            }).status,
            Status::kCommitted);
  EXPECT_EQ(requests, 2);
  // With one among them that was read: the worker sees it when it validates again.
  const CommitResult result = sum([&](int) { write("m", 100, 2 * kRingPerDelta); });
  EXPECT_EQ(result.status, Status::kConflict);
  EXPECT_EQ(requests, 1);
}

TEST_F(WorkerValidate, ARingThatHasWrappedIsValidatedAgain) {
  const auto go_round = [&] {
    for (std::uint64_t i = 0; i < shm::kCommitRing / (kRingPerDelta / 2); ++i) {
      write("elsewhere", 0, kRingPerDelta / 2);
    }
  };
  EXPECT_EQ(sum([&](int n) {
              if (n == 1) go_round();
            }).status,
            Status::kCommitted);
  EXPECT_EQ(requests, 2);
  EXPECT_EQ(sum([&](int n) {
              if (n == 1) write("m", 17);
              if (n == 1) go_round();
            }).status,
            Status::kConflict);
  EXPECT_EQ(requests, 1);
}

TEST_F(WorkerValidate, WhoeverIsAlwaysTooLateGetsTheTurnAndThenTheLongWay) {
  const std::uint32_t turns = world.space().header().turns.load();
  EXPECT_EQ(sum([&](int) { write("elsewhere", 0, 2 * kRingPerDelta); }).status, Status::kCommitted);
  EXPECT_EQ(requests, 7);  // twice, four times with the turn (which runs out), then walked
  EXPECT_EQ(world.space().header().turns.load(), turns + 4);
  EXPECT_EQ(world.space().header().turn_slot.load(), 0u);
}

TEST_F(WorkerValidate, TheTurnIsKeptUntilItIsDecided) {
  const std::uint32_t mine = reader->slot() + 1;
  const auto holder = [&] { return world.space().header().turn_slot.load(); };
  EXPECT_EQ(sum([&](int n) {
              if (n == 1) {
                write_one_by_one(static_cast<int>(2 * kRingWalk));
                ASSERT_TRUE(transaction.claim_turn({.nanoseconds = 60'000'000'000}));
              }
              EXPECT_EQ(holder(), mine) << n;
            }).status,
            Status::kCommitted);
  EXPECT_EQ(requests, 2);
  EXPECT_EQ(holder(), 0u);
}

TEST_F(WorkerValidate, AStepThatWasUndoneLeavesNothing) {
  // An owner that dies in the middle of a delta that writes what was read, with the entries of the
  // ring made: as repair finds it.
  const auto die_half_way = [&] {
    while (!world.arbiter().lock_for(1'000'000'000)) {
    }
    shm::Header& header = world.space().writable();
    shm::StepJournal journal(world.space());
    shm::WriteRing ring(world.space(), journal);
    const std::uint64_t version = header.clock.load() + 1;
    Snapshot snapshot(*other);
    const shm::Link node(read(snapshot, {"m"}).node);
    const std::uint64_t seed = header.hash_seed.load();
    journal.begin(version);
    ring.begin(version);
    auto& count = world.space().writable_cell<shm::NodeRecord>(node.unit())->count;
    auto& structure = world.space().writable_cell<shm::NodeRecord>(node.unit())->structure_version;
    journal.set(structure, version);
    journal.set(count, count.load() - 1);
    for (std::uint64_t i = 0; i < kRingPerDelta; ++i) {
      const std::string name = numbered(static_cast<int>(i));
      const shm::FoundKey found = shm::find_key(world.space(), node.raw, key(name),
                                                shm::hash_key(seed, node.raw, key(name)));
      ring.note(found.link);
    }
    shm::StepJournal(world.space()).repair();
    world.arbiter().unlock();
  };
  EXPECT_EQ(sum([&](int) { die_half_way(); }).status, Status::kCommitted);
  EXPECT_EQ(requests, 1);
  EXPECT_EQ(sum([&](int) {
              die_half_way();
              write("elsewhere", 0);  // takes the version of the one that never came to be
            }).status,
            Status::kCommitted);
  EXPECT_EQ(sum([&](int) {
              die_half_way();
              write("m", 2);
              die_half_way();
            }).status,
            Status::kConflict);
}

TEST_F(WorkerValidate, ReadingAllOfAMappingIsOneCheck) {
  // What its structure says need not be said key by key; the values are still their own.
  const auto iterate = [&](bool values, const std::function<void()>& meanwhile) {
    Transaction t(*reader);
    t.begin(Isolation::kSerializable);
    Mapping* m = t.child(at(t, {"m"}));
    for (auto cursor = t.iterate(m); Entry* entry = t.next(cursor);) {
      if (values) t.read(entry);
    }
    t.put_int(at(t, {"sum"}), 1);
    meanwhile();
    return t.commit();
  };
  EXPECT_EQ(iterate(false, [&] { write("m", 0); }).status, Status::kCommitted);
  EXPECT_EQ(world.space().desk(reader->slot()).submission_link.load(), 0u) << "it was large";
  EXPECT_EQ(iterate(true, [&] { write("m", 0); }).status, Status::kConflict);
  const CommitResult result = iterate(false, [&] { erase(numbered(0)); });
  EXPECT_EQ(result.status, Status::kConflict);
  EXPECT_NE(result.conflict_mapping, nullptr);
}

// A deletion of "m"'s k5 by an owner that is in the middle of it while the worker validates.
class HalfDone {
 public:
  HalfDone(World& world, Session& session) : world_(world), tables_(world.space()) {
    Snapshot snapshot(session);
    const shm::Link node(read(snapshot, {"m"}).node);
    const std::uint64_t seed = tables_.header().hash_seed.load();
    const shm::FoundKey found =
        shm::find_key(world.space(), node.raw, key("k5"), shm::hash_key(seed, node.raw, key("k5")));
    shm::NodeRecord& home = tables_.node(node.unit());
    const shm::Link head(found.record->head.load());
    version_ = tables_.header().clock.load() + 1;
    tables_.journal.begin(version_);
    ring_.begin(version_);
    tables_.journal.set(tables_.record(head.unit()).died_at, version_);
    tables_.journal.set(home.structure_version, version_);
    tables_.journal.set(home.count, home.count.load() - 1);
    ring_.note(node);
    tables_.retain(found.link.unit());
    ring_.note(found.link);
  }
  void commit() {
    tables_.header().clock.store(version_);
    tables_.journal.end();
  }
  void die() { shm::StepJournal(world_.space()).repair(); }

 private:
  World& world_;
  shm::Tables tables_;
  shm::WriteRing ring_{world_.space(), tables_.journal};
  std::uint64_t version_ = 0;
};

TEST_F(WorkerValidate, AStepUnderWayIsJudgedByWhatBecomesOfIt) {
  reader->internals().validate_above = 0;
  const std::vector<std::function<void(Transaction&, Mapping*)>> reads = {
      [](Transaction& t, Mapping* m) { t.read(t.entry(m, key("k5"))); },
      [](Transaction& t, Mapping* m) { t.contains(t.entry(m, key("k5"))); },
      [](Transaction& t, Mapping* m) { t.size(m); },
  };
  Transaction& t = transaction;
  const auto attempt = [&](std::size_t which, bool commits, std::string_view inserted = {}) {
    t.begin(Isolation::kSerializable);
    reads[which](t, t.child(at(t, {"m"})));
    t.put_int(at(t, {"sum"}), 1);
    if (!inserted.empty()) insert(inserted);
    HalfDone step(world, *other);
    requests = 0;
    reader->internals().before_request = [&] {
      ++requests;
      commits ? step.commit() : step.die();
    };
    const Status status = t.commit().status;
    EXPECT_EQ(requests, 1);
    reader->internals().before_request = nullptr;
    if (commits) insert("k5");
    return status;
  };
  // Fills the stock: from here on nothing but the decision takes the lock.
  commit(*reader, [](Transaction& filling) { filling.put_int(at(filling, {"sum"}), 1); });
  for (std::size_t which = 0; which < reads.size(); ++which) {
    EXPECT_EQ(attempt(which, false), Status::kCommitted) << which;
    EXPECT_EQ(attempt(which, true), Status::kConflict) << which;
  }
  // The version found in place hides one that did come to be.
  EXPECT_EQ(attempt(2, false, "hidden"), Status::kConflict);
}

// A reader takes a count for its own if the version beside it is old: so the version is stored
// first. The journal keeps the order of a step's stores.
TEST_F(WorkerValidate, ACountIsStoredAfterTheVersionItBelongsTo) {
  commit(*other, [](Transaction& t) { t.put_int(at(t, {"m", "another"}), 1); });
  Snapshot snapshot(*reader);
  const std::uint64_t node_at = shm::Link(read(snapshot, {"m"}).node).offset();
  const auto stored_at = [&](std::size_t field) {
    const shm::JournalEntry* entries = world.space().header().journal_entries;
    const auto* found = std::find_if(entries, entries + 100, [&](const shm::JournalEntry& entry) {
      return entry.place.load() == node_at + field;
    });
    return found - entries;
  };
  EXPECT_LT(stored_at(offsetof(shm::NodeRecord, structure_version)),
            stored_at(offsetof(shm::NodeRecord, count)));
  EXPECT_LT(stored_at(offsetof(shm::NodeRecord, count)), 100);
}

TEST_F(WorkerValidate, ACountOfAStepThatIsBeingUndoneIsNotBelieved) {
  Snapshot snapshot(*reader);
  const std::uint64_t node = read(snapshot, {"m"}).node;
  auto& count = world.space().writable_cell<shm::NodeRecord>(shm::Link(node).unit())->count;
  count.store(kKeys + 1);
  EXPECT_EQ(snapshot.size(node), kKeys + 1u) << "otherwise the next line shows nothing";
  world.space().writable().undo_epoch.fetch_add(1);
  EXPECT_EQ(snapshot.size(node), kKeys + 0u);
  count.store(kKeys);
  world.space().writable().undo_epoch.fetch_add(1);
}

}  // namespace
}  // namespace theus::testing
