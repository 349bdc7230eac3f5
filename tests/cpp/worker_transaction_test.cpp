// One transaction and what it sees of itself.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;
using Kinds = Value::Kind;
using Names = std::vector<std::string>;

class WorkerTransaction : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& x) {
      Mapping* made = x.put_mapping(at(x, {"m"}));
      for (const char* name : {"a", "b", "c"}) x.put_int(x.entry(made, key(name)), name[0]);
      x.put_int(x.entry(x.put_mapping(x.entry(made, key("sub"))), key("x")), 1);
    });
    t.begin(Isolation::kSerializable);
    m = t.child(at(t, {"m"}));
  }
  void TearDown() override {
    t.rollback();
    session.reset();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  Names names(Mapping* mapping) {
    Names result;
    Transaction::Cursor cursor = t.iterate(mapping);
    while (Entry* each = t.next(cursor)) result.emplace_back(each->key.whole());
    return result;
  }
  Names committed(std::initializer_list<std::string_view> path) {
    EXPECT_EQ(t.commit().status, CommitResult::Status::kCommitted);
    Snapshot snapshot(*session);
    return keys(snapshot, path);
  }
  Entry* in_m(std::string_view name) { return t.entry(m, key(name)); }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
  Transaction t{*session};
  Mapping* m = nullptr;
};

TEST_F(WorkerTransaction, ReadsItsOwnWritesBack) {
  t.put_int(in_m("a"), -5);
  t.put_str(in_m("b"), "text");
  const std::string text(1000, 'x');
  t.put_bytes(in_m("c"), text);
  t.put_float(in_m("f"), 0.25);
  t.put_bool(in_m("no"), false);
  t.put_none(in_m("none"));
  EXPECT_EQ(t.read(in_m("a")).integer, -5);
  EXPECT_EQ(t.read(in_m("b")).bytes(), "text");
  EXPECT_EQ(t.read(in_m("c")).bytes(), text);
  EXPECT_EQ(t.read(in_m("f")).real, 0.25);
  EXPECT_EQ(t.read(in_m("no")).kind, Kinds::kFalse);
  EXPECT_EQ(t.read(in_m("none")).kind, Kinds::kNone);
  EXPECT_EQ(t.read(in_m("a")).record, 0u) << "an own value has no record yet";
  {
    Snapshot before(*session);
    EXPECT_EQ(read(before, {"m", "a"}).integer, 'a') << "seen before the commit";
  }
  EXPECT_EQ(committed({"m"}), (Names{"a", "b", "c", "sub", "f", "no", "none"}));
  Snapshot after(*session);
  EXPECT_EQ(read(after, {"m", "a"}).integer, -5);
  EXPECT_EQ(read(after, {"m", "c"}).bytes(), text);
}

TEST_F(WorkerTransaction, OneEntryPerKey) {
  Entry* entry = in_m("a");
  EXPECT_EQ(in_m("a"), entry);
  EXPECT_NE(t.entry(t.root(), key("a")), entry);
  EXPECT_EQ(t.child(at(t, {"m"})), m);
}

TEST_F(WorkerTransaction, TheLastOfSeveralWritesCounts) {
  for (int i = 0; i < 10; ++i) t.put_int(in_m("a"), i);
  t.put_str(in_m("a"), std::string(100, 'y'));
  t.put_int(in_m("a"), 11);
  EXPECT_EQ(committed({"m"}), (Names{"a", "b", "c", "sub"})) << "replaced where it stood";
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 11);
}

TEST_F(WorkerTransaction, DeletedAndPutAgainStandsAtTheEnd) {
  EXPECT_TRUE(t.erase(in_m("a")));
  EXPECT_EQ(t.read(in_m("a")).kind, Kinds::kAbsent);
  EXPECT_FALSE(t.erase(in_m("a")));
  t.put_int(in_m("a"), 2);
  t.put_int(in_m("d"), 1);
  EXPECT_EQ(names(m), (Names{"b", "c", "sub", "a", "d"}));
  EXPECT_EQ(t.size(m), 5u);
  EXPECT_EQ(committed({"m"}), (Names{"b", "c", "sub", "a", "d"}));
}

TEST_F(WorkerTransaction, ReinsertedKeysKeepTheOrderOfTheirInsertion) {
  t.erase(in_m("a"));
  t.put_int(in_m("d"), 1);
  t.put_int(in_m("e"), 1);
  t.put_int(in_m("a"), 2);
  t.erase(in_m("d"));
  t.put_int(in_m("d"), 3);
  EXPECT_EQ(names(m), (Names{"b", "c", "sub", "e", "a", "d"}));
  EXPECT_EQ(committed({"m"}), (Names{"b", "c", "sub", "e", "a", "d"}));
}

TEST_F(WorkerTransaction, InsertedAndDeletedAgainIsNothing) {
  t.put_int(in_m("new"), 1);
  EXPECT_TRUE(t.erase(in_m("new")));
  EXPECT_TRUE(t.has_writes());
  EXPECT_EQ(names(m), (Names{"a", "b", "c", "sub"}));
  const std::uint64_t before = session->version();
  EXPECT_EQ(t.commit().status, CommitResult::Status::kReadOnly);
  EXPECT_EQ(session->version(), before);
}

TEST_F(WorkerTransaction, NewMappingsNest) {
  Mapping* outer = t.put_mapping(in_m("outer"));
  Mapping* inner = t.put_mapping(t.entry(outer, key("inner")));
  t.put_int(t.entry(inner, key("deep")), 7);
  EXPECT_EQ(t.child(in_m("outer")), outer);
  EXPECT_EQ(read(t, {"m", "outer", "inner", "deep"}).integer, 7);
  EXPECT_EQ(t.size(outer), 1u);
  EXPECT_EQ(names(inner), Names{"deep"});
  EXPECT_EQ(t.read(t.entry(inner, key("other"))).kind, Kinds::kAbsent);
  EXPECT_EQ(committed({"m", "outer", "inner"}), Names{"deep"});
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"m", "outer", "inner", "deep"}).integer, 7);
}

TEST_F(WorkerTransaction, PuttingOverAMappingDetachesIt) {
  Entry* binding = at(t, {"m", "sub"});
  Mapping* sub = t.child(binding);
  Entry* inside = t.entry(sub, key("x"));
  t.put_int(binding, 5);
  EXPECT_TRUE(sub->detached);
  EXPECT_THROW(t.put_int(inside, 6), worker::Error);
  EXPECT_THROW(t.put_leaf(inside, 10), worker::Error);
  EXPECT_THROW(t.child(binding), worker::Error);
  EXPECT_EQ(committed({"m"}), (Names{"a", "b", "c", "sub"}));
}

TEST_F(WorkerTransaction, WhatIsBelowADetachedMappingIsDetached) {
  Mapping* sub = t.child(at(t, {"m", "sub"}));
  Mapping* deeper = t.put_mapping(t.entry(sub, key("deeper")));
  Entry* leaf = t.entry(deeper, key("leaf"));
  t.erase(at(t, {"m"}));
  EXPECT_THROW(t.put_int(leaf, 1), worker::Error);
  // A new one under the same name is another mapping.
  Mapping* again = t.put_mapping(at(t, {"m"}));
  EXPECT_NE(again, m);
  EXPECT_EQ(t.size(again), 0u);
  EXPECT_THROW(t.put_int(leaf, 1), worker::Error);
  t.put_int(t.entry(again, key("z")), 1);
  EXPECT_EQ(committed({"m"}), Names{"z"});
}

TEST_F(WorkerTransaction, ClearTakesEverythingAndTheMappingGoesOn) {
  Entry* known = in_m("a");
  Mapping* sub = t.child(at(t, {"m", "sub"}));
  t.put_int(in_m("new"), 1);
  t.clear(m);
  EXPECT_TRUE(sub->detached);
  EXPECT_FALSE(m->detached);
  EXPECT_EQ(t.size(m), 0u);
  EXPECT_TRUE(t.empty(m));
  EXPECT_EQ(t.read(known).kind, Kinds::kAbsent);
  EXPECT_EQ(in_m("a"), known) << "an entry keeps its address";
  EXPECT_TRUE(names(m).empty());
  t.put_int(in_m("b"), 5);
  EXPECT_EQ(names(m), Names{"b"});
  EXPECT_EQ(committed({"m"}), Names{"b"});
}

TEST_F(WorkerTransaction, TheRootIsClearedKeyByKey) {
  t.put_int(at(t, {"own"}), 1);
  t.clear(t.root());
  EXPECT_EQ(t.size(t.root()), 0u);
  t.put_int(at(t, {"after"}), 1);
  EXPECT_EQ(committed({}), Names{"after"});
}

TEST_F(WorkerTransaction, SizeAndEmptyCountOwnChanges) {
  EXPECT_EQ(t.size(m), 4u);
  t.put_int(in_m("new"), 1);
  t.put_int(in_m("a"), 1);  // was there
  EXPECT_EQ(t.size(m), 5u);
  for (const char* name : {"a", "b", "c", "sub"}) t.erase(in_m(name));
  EXPECT_EQ(t.size(m), 1u);
  EXPECT_FALSE(t.empty(m));
  t.erase(in_m("new"));
  EXPECT_TRUE(t.empty(m));
  EXPECT_EQ(t.size(m), 0u);
  EXPECT_TRUE(committed({"m"}).empty());
}

TEST_F(WorkerTransaction, IterationShowsOwnChanges) {
  t.erase(in_m("b"));
  t.put_int(in_m("y"), 1);
  t.put_int(in_m("z"), 1);
  t.erase(in_m("y"));
  t.put_int(in_m("a"), 99);
  EXPECT_EQ(names(m), (Names{"a", "c", "sub", "z"}));
  Transaction::Cursor cursor = t.iterate(m);
  EXPECT_EQ(t.read(t.next(cursor)).integer, 99);
}

TEST_F(WorkerTransaction, ChangingSizeEndsAnIteration) {
  Transaction::Cursor cursor = t.iterate(m);
  ASSERT_NE(t.next(cursor), nullptr);
  t.put_int(in_m("a"), 5);  // a value: goes on
  t.put_int(t.entry(t.child(in_m("sub")), key("more")), 5);  // another mapping: goes on
  ASSERT_NE(t.next(cursor), nullptr);
  t.put_int(in_m("new"), 5);
  EXPECT_THROW(t.next(cursor), worker::Error);
  cursor = t.iterate(m);
  ASSERT_NE(t.next(cursor), nullptr);
  t.erase(in_m("b"));
  EXPECT_THROW(t.next(cursor), worker::Error);
  cursor = t.iterate(m);
  ASSERT_NE(t.next(cursor), nullptr);
  t.clear(m);
  EXPECT_THROW(t.next(cursor), worker::Error);
}

TEST_F(WorkerTransaction, LeavesAreReadWhereTheyWereWritten) {
  for (const std::uint64_t bytes : {0, 1, 100, 40'000, 200'000}) {
    for (const bool aligned : {false, true}) {
      const std::string name = std::to_string(bytes) + (aligned ? "a" : "u");
      char* data = t.put_leaf(in_m(name), bytes, aligned);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % (aligned ? 64 : 16), 0u) << bytes;
      for (std::uint64_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(i * 7);
      const Value& value = t.read(in_m(name));
      ASSERT_EQ(value.kind, Kinds::kLeaf);
      EXPECT_EQ(value.bytes(), std::string_view(data, bytes));
    }
  }
  EXPECT_EQ(t.commit().status, CommitResult::Status::kCommitted);
  Snapshot snapshot(*session);
  const Value value = read(snapshot, {"m", "200000a"});
  ASSERT_EQ(value.size, 200'000u);
  EXPECT_EQ(value.data[199'999], static_cast<char>(199'999 * 7));
}

TEST_F(WorkerTransaction, LongKeysAndEveryLengthOfText) {
  for (std::size_t size = 1; size <= shm::kMaxKeyBytes; size = size < 40 ? size + 1 : size * 2) {
    t.put_str(in_m(std::string(size, 'k')), std::string(size, 'v'));
  }
  t.put_str(in_m(std::string(shm::kMaxKeyBytes, 'k')), "longest");
  EXPECT_EQ(t.commit().status, CommitResult::Status::kCommitted);
  Snapshot snapshot(*session);
  for (std::size_t size = 1; size <= 40; ++size) {
    EXPECT_EQ(read(snapshot, {"m", std::string(size, 'k')}).bytes(), std::string(size, 'v'));
  }
  EXPECT_EQ(read(snapshot, {"m", std::string(shm::kMaxKeyBytes, 'k')}).bytes(), "longest");
}

TEST_F(WorkerTransaction, AfterItsEndEverythingIsAnError) {
  Entry* entry = in_m("a");
  t.rollback();
  EXPECT_FALSE(t.open());
  EXPECT_THROW(t.root(), worker::Error);
  EXPECT_THROW(t.entry(m, key("a")), worker::Error);
  EXPECT_THROW(t.put_int(entry, 1), worker::Error);
  EXPECT_THROW(t.put_mapping(entry), worker::Error);
  EXPECT_THROW(t.put_leaf(entry, 8), worker::Error);
  EXPECT_THROW(t.erase(entry), worker::Error);
  EXPECT_THROW(t.clear(m), worker::Error);
  EXPECT_THROW(t.size(m), worker::Error);
  EXPECT_THROW(t.empty(m), worker::Error);
  EXPECT_THROW(t.iterate(m), worker::Error);
  EXPECT_THROW(t.commit(), worker::Error);
  t.rollback();  // harmless
  t.begin(Isolation::kSnapshot);
  EXPECT_THROW(t.begin(Isolation::kSnapshot), worker::Error);
  EXPECT_EQ(read(t, {"m", "a"}).integer, 'a');
}

TEST_F(WorkerTransaction, RollbackLeavesNothing) {
  t.put_int(in_m("a"), 1);
  t.put_bytes(in_m("large"), std::string(300'000, 'x'));
  t.put_int(t.entry(t.put_mapping(in_m("new")), key("x")), 1);
  const std::uint64_t before = session->version();
  t.rollback();
  EXPECT_EQ(session->version(), before);
  EXPECT_EQ(session->stats().rollbacks, 1u);
  Snapshot snapshot(*session);
  EXPECT_EQ(keys(snapshot, {"m"}), (Names{"a", "b", "c", "sub"}));
  EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 'a');
}

TEST_F(WorkerTransaction, SnapshotsStayAsTheyWere) {
  Snapshot before(*session);
  t.put_int(in_m("a"), 1);
  t.erase(in_m("b"));
  t.put_int(in_m("new"), 1);
  EXPECT_EQ(committed({"m"}), (Names{"a", "c", "sub", "new"}));
  EXPECT_EQ(keys(before, {"m"}), (Names{"a", "b", "c", "sub"}));
  EXPECT_EQ(before.size(read(before, {"m"}).node), 4u);
  EXPECT_EQ(read(before, {"m", "a"}).integer, 'a');
  EXPECT_EQ(before.subtree_version(before.root()), Snapshot::kUnknownVersion);
  before.close();
  before.close();
  EXPECT_THROW(before.find(before.root(), key("m")), worker::Error);
}

TEST_F(WorkerTransaction, TheHookIsCalledForEachUserOnce) {
  static int called;
  called = 0;
  t.set_user_hook([](void* user) { called += *static_cast<int*>(user); });
  int one = 1, ten = 10;
  in_m("a")->user = &one;
  in_m("absent")->user = &ten;
  in_m("b");
  t.rollback();
  EXPECT_EQ(called, 11);
  t.rollback();
  EXPECT_EQ(called, 11);
}

}  // namespace
}  // namespace theus::testing
