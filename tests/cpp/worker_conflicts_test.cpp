// Which pairs of overlapping transactions conflict: a table, in both commit orders, at both
// isolation levels, and whoever validates.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Transaction;
using Status = CommitResult::Status;
using Path = std::initializer_list<std::string_view>;
using Work = std::function<void(Transaction&)>;

// What a transaction does besides writing a key of its own (so that it has something to commit).
Work read_of(Path path) {
  const std::vector<std::string_view> names(path);
  return [names](Transaction& t) {
    Mapping* mapping = t.root();
    for (std::size_t i = 0; i + 1 < names.size(); ++i) {
      mapping = t.child(t.entry(mapping, key(names[i])));
    }
    t.read(t.entry(mapping, key(names.back())));
  };
}
Mapping* mapping_at(Transaction& t, const std::vector<std::string_view>& names) {
  Mapping* mapping = t.root();
  for (const std::string_view name : names) mapping = t.child(t.entry(mapping, key(name)));
  return mapping;
}
Entry* entry_at(Transaction& t, const std::vector<std::string_view>& names) {
  return t.entry(mapping_at(t, {names.begin(), names.end() - 1}), key(names.back()));
}
Work write(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.put_int(entry_at(t, names), 100);
  };
}
Work remove(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.erase(entry_at(t, names));
  };
}
Work reinsert(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.erase(entry_at(t, names));
    t.put_int(entry_at(t, names), 200);
  };
}
Work insert_and_remove(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.put_int(entry_at(t, names), 100);
    t.erase(entry_at(t, names));
  };
}
Work replace(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.put_int(t.entry(t.put_mapping(entry_at(t, names)), key("new")), 1);
  };
}
Work contains(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.contains(entry_at(t, names));
  };
}
Work size(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.size(mapping_at(t, names));
  };
}
Work empty(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.empty(mapping_at(t, names));
  };
}
Work clear(Path path) {
  return [names = std::vector<std::string_view>(path)](Transaction& t) {
    t.clear(mapping_at(t, names));
  };
}
// Passes `most` entries; more than there are: to the end.
Work iterate(Path path, int most = 1000) {
  return [names = std::vector<std::string_view>(path), most](Transaction& t) {
    Transaction::Cursor cursor = t.iterate(mapping_at(t, names));
    for (int i = 0; i < most && t.next(cursor) != nullptr; ++i) {
    }
  };
}
// The same from the end.
Work iterate_back(Path path, int most = 1000) {
  return [names = std::vector<std::string_view>(path), most](Transaction& t) {
    Transaction::Cursor cursor = t.iterate(mapping_at(t, names), worker::Order::kBackward);
    for (int i = 0; i < most && t.next(cursor) != nullptr; ++i) {
    }
  };
}
// Takes the last `count` entries, one by one.
Work pop(Path path, int count = 1) {
  return [names = std::vector<std::string_view>(path), count](Transaction& t) {
    Mapping* mapping = mapping_at(t, names);
    for (int i = 0; i < count; ++i) {
      Transaction::Cursor cursor = t.iterate(mapping, worker::Order::kBackward);
      Entry* last = t.next(cursor);
      if (last == nullptr) return;
      t.read(last);
      t.erase(last);
    }
  };
}
Work both(Work one, Work other) {
  return [one = std::move(one), other = std::move(other)](Transaction& t) {
    one(t);
    other(t);
  };
}

struct Pair {
  const char* name;
  Work first, second;
  // Whether the later one conflicts: second after first, first after second.
  bool serializable[2];
  bool snapshot[2];
};

std::vector<Pair> pairs() {
  const auto never = [](const char* name, Work one, Work other) {
    return Pair{name, std::move(one), std::move(other), {false, false}, {false, false}};
  };
  const auto always = [](const char* name, Work one, Work other) {
    return Pair{name, std::move(one), std::move(other), {true, true}, {true, true}};
  };
  // The first one has read what the second one writes.
  const auto stale = [](const char* name, Work reader, Work writer) {
    return Pair{name, std::move(reader), std::move(writer), {false, true}, {false, false}};
  };
  return {
      always("write/write", write({"m", "a"}), write({"m", "a"})),
      always("insert/insert", write({"m", "z"}), write({"m", "z"})),
      always("delete/write", remove({"m", "a"}), write({"m", "a"})),
      always("delete/delete", remove({"m", "a"}), remove({"m", "a"})),
      always("reinsert/write", reinsert({"m", "a"}), write({"m", "a"})),
      always("replaced by a mapping/write", replace({"m", "a"}), write({"m", "a"})),
      stale("read/write", read_of({"m", "a"}), write({"m", "a"})),
      stale("read/delete", read_of({"m", "a"}), remove({"m", "a"})),
      stale("read/reinsert", read_of({"m", "a"}), reinsert({"m", "a"})),
      stale("absent read/insert", read_of({"m", "z"}), write({"m", "z"})),
      stale("insert taken back/insert", insert_and_remove({"m", "z"}), write({"m", "z"})),

      always("ancestor replaced/write below", replace({"m"}), write({"m", "sub", "x"})),
      always("ancestor deleted/write below", remove({"m"}), write({"m", "sub", "x"})),
      always("ancestor replaced/insert below", replace({"m"}), write({"m", "sub", "z"})),
      always("ancestor deleted/delete below", remove({"m"}), remove({"m", "sub", "x"})),
      always("ancestor cleared/insert", clear({"m"}), write({"m", "z"})),
      always("parent replaced/replaced", replace({"m", "sub"}), replace({"m", "sub"})),
      // A binding on the way is checked at both levels: what was read was never in the new one.
      {"read below/ancestor replaced",
       read_of({"m", "sub", "x"}),
       replace({"m"}),
       {false, true},
       {false, true}},
      {"read below/ancestor deleted",
       read_of({"m", "sub", "x"}),
       remove({"m"}),
       {false, true},
       {false, true}},
      {"read/cleared", read_of({"m", "a"}), clear({"m"}), {false, true}, {false, true}},
      never("ancestor's sibling replaced/write", replace({"n"}), write({"m", "sub", "x"})),
      never("subtree replaced/sibling written", replace({"m", "sub"}), write({"m", "a"})),

      stale("iteration/insert", iterate({"m"}), write({"m", "z"})),
      stale("iteration/delete", iterate({"m"}), remove({"m", "b"})),
      stale("iteration/reinsert", iterate({"m"}), reinsert({"m", "b"})),
      never("iteration/value", iterate({"m"}), write({"m", "a"})),
      never("iteration/value below", iterate({"m"}), write({"m", "sub", "x"})),
      never("partial iteration/insert", iterate({"m"}, 1), write({"m", "z"})),
      never("partial iteration/delete further on", iterate({"m"}, 1), remove({"m", "b"})),
      stale("partial iteration/delete of what was passed", iterate({"m"}, 1), remove({"m", "a"})),
      stale("partial iteration/reinsert of what was passed", iterate({"m"}, 1),
            reinsert({"m", "a"})),
      never("partial iteration/value of what was passed", iterate({"m"}, 1), write({"m", "a"})),

      stale("from the end/insert", iterate_back({"m"}, 1), write({"m", "z"})),
      stale("from the end/reinsert", iterate_back({"m"}, 1), reinsert({"m", "a"})),
      stale("from the end/delete of what was passed", iterate_back({"m"}, 2), remove({"m", "b"})),
      stale("from the end/the last", iterate_back({"m"}, 1), remove({"m", "sub"})),
      stale("from the end/reinsert of the last", iterate_back({"m"}, 1), reinsert({"m", "sub"})),
      never("from the end/delete further on", iterate_back({"m"}, 2), remove({"m", "a"})),
      never("from the end/value", iterate_back({"m"}, 3), write({"m", "a"})),
      never("from the end/value below", iterate_back({"m"}), write({"m", "sub", "x"})),
      never("from the end/insert elsewhere", iterate_back({"m"}, 1), write({"n", "z"})),
      stale("all from the end/insert", iterate_back({"m"}), write({"m", "z"})),
      stale("all from the end/delete", iterate_back({"m"}), remove({"m", "a"})),
      stale("from the end of nothing/insert", iterate_back({"none"}), write({"none", "z"})),
      stale("pop/insert", pop({"m"}), write({"m", "z"})),
      stale("pop/reinsert", pop({"m"}), reinsert({"m", "a"})),
      stale("two pops/insert", pop({"m"}, 2), write({"m", "z"})),
      always("pop/delete", pop({"m"}), remove({"m", "sub"})),
      always("pop/write", pop({"n"}), write({"n", "a"})),
      always("pop/write below", pop({"m"}), write({"m", "sub", "x"})),
      always("pop/pop", pop({"m"}), pop({"m"})),
      never("pop/delete further on", pop({"m"}, 2), remove({"m", "a"})),
      never("pop/write further on", pop({"m"}, 2), write({"m", "a"})),
      never("pop of what was put/insert", both(write({"m", "y"}), pop({"m"})), write({"m", "z"})),
      stale("pop and one more/insert", both(write({"m", "y"}), pop({"m"}, 2)), write({"m", "z"})),
      stale("pop of nothing/insert", pop({"none"}), write({"none", "z"})),
      stale("pop and empty/insert", both(empty({"m"}), pop({"m"})), write({"m", "z"})),

      never("contains/value", contains({"m", "a"}), write({"m", "a"})),
      stale("contains/delete", contains({"m", "a"}), remove({"m", "a"})),
      never("contains/reinsert", contains({"m", "a"}), reinsert({"m", "a"})),
      stale("contains, absent/insert", contains({"m", "z"}), write({"m", "z"})),

      stale("size/insert", size({"m"}), write({"m", "z"})),
      stale("size/delete", size({"m"}), remove({"m", "a"})),
      never("size/value", size({"m"}), write({"m", "a"})),
      never("size/insert below", size({"m"}), write({"m", "sub", "z"})),
      stale("empty/insert into the empty one", empty({"none"}), write({"none", "z"})),
      never("empty/insert into another", empty({"m"}), write({"m", "z"})),
      never("empty/delete of one of many", empty({"m"}), remove({"m", "a"})),
      stale("empty/delete of the last", empty({"n"}), remove({"n", "a"})),

      // One read may stand in for another only where it says as much.
      stale("contains and empty/delete", both(contains({"m", "a"}), empty({"m"})),
            remove({"m", "a"})),
      stale("contains and size/delete", both(contains({"m", "a"}), size({"m"})),
            remove({"m", "a"})),
      stale("contains, absent, and size/insert", both(contains({"m", "z"}), size({"m"})),
            write({"m", "z"})),
      stale("read, absent, and empty/insert", both(read_of({"m", "z"}), empty({"m"})),
            write({"m", "z"})),
      stale("read and size/write", both(read_of({"m", "a"}), size({"m"})), write({"m", "a"})),
      stale("iteration and read/write", both(iterate({"m"}), read_of({"m", "a"})),
            write({"m", "a"})),
      stale("iteration, then read and contains/reinsert",
            both(iterate({"m"}, 1), both(read_of({"m", "a"}), contains({"m", "a"}))),
            reinsert({"m", "a"})),

      never("siblings", write({"m", "a"}), write({"m", "b"})),
      never("depths", write({"m", "a"}), write({"m", "sub", "x"})),
      never("inserts side by side", write({"m", "y"}), write({"m", "z"})),
      never("deletes side by side", remove({"m", "a"}), remove({"m", "b"})),
      never("insert beside delete", write({"m", "z"}), remove({"m", "a"})),
      never("other mappings", write({"m", "z"}), write({"n", "z"})),
      never("read/read", read_of({"m", "a"}), read_of({"m", "a"})),
      never("read beside write", read_of({"m", "a"}), write({"m", "b"})),
      {"write skew",
       both(read_of({"m", "a"}), write({"m", "b"})),
       both(read_of({"m", "b"}), write({"m", "a"})),
       {true, true},
       {false, false}},
      {"write skew on absence",
       both(read_of({"m", "y"}), write({"m", "z"})),
       both(read_of({"m", "z"}), write({"m", "y"})),
       {true, true},
       {false, false}},
  };
}

class WorkerConflicts : public ::testing::Test {
 protected:
  void fill() {
    commit(*one, [](Transaction& t) {
      for (const char* name : {"first", "second"}) t.put_int(at(t, {name}), 0);
      Mapping* m = t.put_mapping(at(t, {"m"}));
      t.put_int(t.entry(m, key("a")), 1);
      t.put_int(t.entry(m, key("b")), 2);
      Mapping* sub = t.put_mapping(t.entry(m, key("sub")));
      t.put_int(t.entry(sub, key("x")), 3);
      t.put_int(t.entry(t.put_mapping(at(t, {"n"})), key("a")), 4);
      t.put_mapping(at(t, {"none"}));
    });
  }
  // How the later one is validated: by the arbiter under the lock; by its worker, with the earlier
  // one committed before that, or between that and the arbiter's look at the ring.
  enum class Validated { kByArbiter, kAfterwards, kBefore };

  // Runs both over one snapshot; whether the later one to commit conflicts.
  bool conflicts(const Work& earlier, const Work& later, Isolation isolation, Validated validated) {
    fill();
    if (validated != Validated::kByArbiter) other->internals().validate_above = 0;
    Transaction a(*one), b(*other);
    a.begin(isolation);
    b.begin(isolation);
    earlier(a);
    later(b);
    a.put_int(at(a, {"first"}), 1);
    b.put_int(at(b, {"second"}), 1);
    int requests = 0;
    const auto commit_earlier = [&] {
      EXPECT_EQ(a.commit().status, Status::kCommitted) << "nobody was before it";
    };
    if (validated == Validated::kBefore) {
      other->internals().before_request = [&] {
        if (++requests == 1) commit_earlier();
      };
    } else {
      commit_earlier();
    }
    const CommitResult result = b.commit();
    other->internals().before_request = nullptr;
    other->internals().validate_above = worker::kValidateAbove;
    EXPECT_EQ(requests, validated == Validated::kBefore ? 1 : 0);
    if (result.status == Status::kConflict) {
      EXPECT_TRUE(result.conflict != nullptr || result.conflict_mapping != nullptr);
      return true;
    }
    EXPECT_EQ(result.status, Status::kCommitted);
    return false;
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> one = world.attach(), other = world.attach();
};

TEST_F(WorkerConflicts, Table) {
  for (const Validated v : {Validated::kByArbiter, Validated::kAfterwards, Validated::kBefore}) {
    SCOPED_TRACE("validation " + std::to_string(static_cast<int>(v)));
    for (const Pair& pair : pairs()) {
      SCOPED_TRACE(pair.name);
      const Isolation s = Isolation::kSerializable, i = Isolation::kSnapshot;
      EXPECT_EQ(conflicts(pair.first, pair.second, s, v), pair.serializable[0])
          << "first, then second";
      EXPECT_EQ(conflicts(pair.second, pair.first, s, v), pair.serializable[1])
          << "second, then first";
      EXPECT_EQ(conflicts(pair.first, pair.second, i, v), pair.snapshot[0]) << "snapshot, in order";
      EXPECT_EQ(conflicts(pair.second, pair.first, i, v), pair.snapshot[1]) << "snapshot, reversed";
    }
  }
}

// What came and went again behind the last entry is passed by, up to a bound.
TEST_F(WorkerConflicts, TheLastEntryStaysTheLastBeforeDeadOnes) {
  for (const int dead : {1, 900, 2000}) {
    fill();
    Transaction t(*other);
    t.begin(Isolation::kSerializable);
    pop({"m"})(t);
    commit(*one, [&](Transaction& x) {
      for (int i = 0; i < dead; ++i) x.put_int(at(x, {"m", "t" + std::to_string(i)}), i);
    });
    commit(*one, [&](Transaction& x) {
      for (int i = 0; i < dead; ++i) x.erase(at(x, {"m", "t" + std::to_string(i)}));
    });
    EXPECT_EQ(t.commit().status, dead < 1000 ? Status::kCommitted : Status::kConflict) << dead;
  }
}

TEST_F(WorkerConflicts, AConflictNamesItsEntryAndWinner) {
  fill();
  Transaction a(*one), b(*other);
  a.begin(Isolation::kSerializable);
  b.begin(Isolation::kSerializable);
  b.read(at(b, {"n", "a"}));
  Entry* lost = at(b, {"m", "a"});
  b.read(lost);
  b.put_int(at(b, {"second"}), 1);
  a.put_int(at(a, {"m", "a"}), 7);
  const std::uint64_t winner = a.commit().version;
  const CommitResult result = b.commit();
  ASSERT_EQ(result.status, Status::kConflict);
  EXPECT_EQ(result.conflict, lost);
  EXPECT_EQ(result.winner_version, winner);
  EXPECT_EQ(result.winner_pid, static_cast<std::uint32_t>(getpid()));
}

TEST_F(WorkerConflicts, AConflictNamesTheMappingWhoseKeysChanged) {
  fill();
  Transaction a(*one), b(*other);
  a.begin(Isolation::kSerializable);
  b.begin(Isolation::kSerializable);
  Mapping* counted = b.child(at(b, {"m"}));
  b.size(counted);
  b.put_int(at(b, {"second"}), 1);
  a.put_int(at(a, {"m", "z"}), 7);
  const std::uint64_t winner = a.commit().version;
  const CommitResult result = b.commit();
  ASSERT_EQ(result.status, Status::kConflict);
  EXPECT_EQ(result.conflict, nullptr);
  EXPECT_EQ(result.conflict_mapping, counted);
  EXPECT_EQ(result.winner_version, winner);
}

TEST_F(WorkerConflicts, ALoserLeavesNothingAndWinsWhenRunAgain) {
  fill();
  Transaction a(*one), b(*other);
  a.begin(Isolation::kSerializable);
  b.begin(Isolation::kSerializable);
  b.put_int(at(b, {"m", "z"}), 5);
  b.put_int(at(b, {"m", "a"}), b.read(at(b, {"m", "a"})).integer + 10);
  a.put_int(at(a, {"m", "a"}), 50);
  EXPECT_EQ(a.commit().status, Status::kCommitted);
  EXPECT_EQ(b.commit().status, Status::kConflict);
  {
    worker::Snapshot snapshot(*one);
    EXPECT_EQ(read(snapshot, {"m", "z"}).kind, worker::Value::Kind::kAbsent);
    EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 50);
  }
  b.begin(Isolation::kSerializable);
  b.put_int(at(b, {"m", "a"}), b.read(at(b, {"m", "a"})).integer + 10);
  EXPECT_EQ(b.commit().status, Status::kCommitted);
  worker::Snapshot snapshot(*one);
  EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 60);
}

TEST_F(WorkerConflicts, ReadOnlyTransactionsNeverConflict) {
  fill();
  Transaction a(*one), b(*other);
  a.begin(Isolation::kSerializable);
  b.begin(Isolation::kSerializable);
  b.read(at(b, {"m", "a"}));
  a.put_int(at(a, {"m", "a"}), 7);
  EXPECT_EQ(a.commit().status, Status::kCommitted);
  const CommitResult result = b.commit();
  EXPECT_EQ(result.status, Status::kReadOnly);
  EXPECT_EQ(result.version, b.snapshot_version());
}

}  // namespace
}  // namespace theus::testing
