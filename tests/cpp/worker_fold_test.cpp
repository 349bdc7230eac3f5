// Writes that give way to others' instead of conflicting with them: folded numbers, merged values.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "shm/fold.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::Fold;
using shm::Number;
using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;
using Status = CommitResult::Status;

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();

std::string text(std::optional<Number> number) {
  if (!number) return "none";
  return number->is_real ? "float " + std::to_string(number->real)
                         : "int " + std::to_string(number->integer);
}

TEST(ShmFold, SumsAreExactOrNone) {
  EXPECT_EQ(text(shm::fold(Fold::kAdd, Number::of(kMost - 1), Number::of(std::int64_t{1}))),
            "int " + std::to_string(kMost));
  EXPECT_EQ(text(shm::fold(Fold::kAdd, Number::of(kMost), Number::of(std::int64_t{1}))), "none");
  EXPECT_EQ(text(shm::fold(Fold::kAdd, Number::of(kLeast), Number::of(std::int64_t{-1}))), "none");
  EXPECT_EQ(text(shm::fold(Fold::kAdd, Number::of(std::int64_t{2}), Number::of(0.5))),
            "float 2.500000");
}

TEST(ShmFold, IntsAndFloatsAreComparedExactly) {
  struct Case {
    std::int64_t integer;
    double real;
    int order;  // of the int to the float
  };
  const Case cases[] = {
      {9007199254740993, 9007199254740992.0, 1},  // 2^53 + 1: as a double it would be equal
      {9007199254740992, 9007199254740992.0, 0},
      {kMost, 9223372036854775808.0, -1},
      {kLeast, -9223372036854775808.0, 0},
      {kLeast, -9223372036854777856.0, 1},
      {3, 3.5, -1},
      {-3, -3.5, 1},
      {0, -0.0, 0},
      {7, std::numeric_limits<double>::infinity(), -1},
      {7, -std::numeric_limits<double>::infinity(), 1},
  };
  for (const Case& each : cases) {
    const Number integer = Number::of(each.integer), real = Number::of(each.real);
    // The first argument stays unless the second is greater.
    EXPECT_EQ(shm::fold(Fold::kMaximum, integer, real)->is_real, each.order < 0) << each.integer;
    EXPECT_EQ(shm::fold(Fold::kMaximum, real, integer)->is_real, each.order <= 0) << each.integer;
    EXPECT_EQ(shm::fold(Fold::kMinimum, integer, real)->is_real, each.order > 0) << each.integer;
    EXPECT_EQ(shm::fold(Fold::kMinimum, real, integer)->is_real, each.order >= 0) << each.integer;
  }
}

TEST(ShmFold, WhatIsNoNumberGivesWay) {
  const Number nan = Number::of(std::nan("")), one = Number::of(std::int64_t{1});
  for (const Fold how : {Fold::kMaximum, Fold::kMinimum}) {
    EXPECT_EQ(text(shm::fold(how, one, nan)), "int 1");
    EXPECT_EQ(text(shm::fold(how, nan, one)), "int 1");
    EXPECT_TRUE(std::isnan(shm::fold(how, nan, nan)->real));
  }
  EXPECT_TRUE(std::isnan(shm::fold(Fold::kAdd, one, nan)->real));
}

class WorkerFold : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& t) {
      Mapping* m = t.put_mapping(at(t, {"m"}));
      t.put_int(t.entry(m, key("n")), 10);
      t.put_float(t.entry(m, key("f")), 1.5);
      t.put_str(t.entry(m, key("s")), "text");
    });
    for (Transaction* t : {&mine, &other}) t->begin(Isolation::kSerializable);
  }
  void TearDown() override {
    mine.rollback();
    other.rollback();
    const Audit result = audit(world, false);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  static Number whole(std::int64_t integer) { return Number::of(integer); }
  std::string now(std::string_view name) {
    Snapshot snapshot(*session);
    const Value value = read(snapshot, {"m", name});
    if (value.kind == Value::Kind::kAbsent) return "absent";
    if (value.kind == Value::Kind::kFloat) return text(Number::of(value.real));
    return text(Number::of(value.integer));
  }
  std::uint64_t conflicts() {
    return world.space().desk(session->slot()).counters.conflicts.load();
  }

  World world;
  std::unique_ptr<Session> session = world.attach();
  std::unique_ptr<Session> second = world.attach();
  Transaction mine{*session}, other{*second};
};

TEST_F(WorkerFold, WhoeverComesLaterFoldsOntoTheNewest) {
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(5)));
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(7)));
  ASSERT_TRUE(mine.fold(at(mine, {"m", "f"}), Fold::kMaximum, whole(2)));
  ASSERT_TRUE(other.fold(at(other, {"m", "n"}), Fold::kAdd, whole(100)));
  ASSERT_TRUE(other.fold(at(other, {"m", "f"}), Fold::kMaximum, Number::of(2.5)));
  EXPECT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit().status, Status::kCommitted);
  EXPECT_EQ(now("n"), "int 122");
  EXPECT_EQ(now("f"), "float 2.500000");
  EXPECT_EQ(conflicts(), 0u);
}

TEST_F(WorkerFold, OntoAnOrdinaryWriteToo) {
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kMinimum, whole(3)));
  other.put_int(at(other, {"m", "n"}), 2);
  EXPECT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit().status, Status::kCommitted);
  EXPECT_EQ(now("n"), "int 2");
}

TEST_F(WorkerFold, ItShowsItsOwnChangeAndThenCountsAsARead) {
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(5)));
  EXPECT_EQ(mine.read(at(mine, {"m", "n"})).integer, 15);
  ASSERT_TRUE(other.fold(at(other, {"m", "n"}), Fold::kAdd, whole(100)));
  EXPECT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit().status, Status::kConflict);
  EXPECT_EQ(now("n"), "int 110");
  EXPECT_EQ(conflicts(), 1u);
}

TEST_F(WorkerFold, AfterAReadOrAWriteItIsOrdinary) {
  mine.read(at(mine, {"m", "n"}));
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(5)));
  other.put_int(at(other, {"m", "n"}), 50);
  ASSERT_TRUE(other.fold(at(other, {"m", "n"}), Fold::kAdd, whole(1)));
  EXPECT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit().status, Status::kConflict);
  EXPECT_EQ(now("n"), "int 51");
}

TEST_F(WorkerFold, WhereNothingIsItBegins) {
  ASSERT_TRUE(mine.fold(at(mine, {"m", "new"}), Fold::kAdd, whole(5)));
  ASSERT_TRUE(other.fold(at(other, {"m", "new"}), Fold::kAdd, whole(6)));
  EXPECT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit().status, Status::kCommitted);
  EXPECT_EQ(now("new"), "int 11");
  // Came and went: it begins again.
  mine.begin(Isolation::kSerializable);
  ASSERT_TRUE(mine.fold(at(mine, {"m", "brief"}), Fold::kMaximum, whole(-4)));
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "brief"}), 9); });
  commit(*second, [](Transaction& t) { t.erase(at(t, {"m", "brief"})); });
  EXPECT_EQ(mine.commit().status, Status::kCommitted);
  EXPECT_EQ(now("brief"), "int -4");
}

TEST_F(WorkerFold, WhatIsNoNumberAnyMoreIsAConflict) {
  const auto conflicts_after = [&](const std::function<void(Transaction&)>& change) {
    mine.rollback();
    mine.begin(Isolation::kSerializable);
    EXPECT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(5)));
    commit(*second, change);
    const CommitResult result = mine.commit();
    EXPECT_EQ(result.at_write, result.status == Status::kConflict);
    return result.status == Status::kConflict;
  };
  EXPECT_TRUE(conflicts_after([](Transaction& t) { t.put_str(at(t, {"m", "n"}), "ten"); }));
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), kMost - 5); });
  EXPECT_TRUE(conflicts_after([](Transaction& t) { t.put_int(at(t, {"m", "n"}), kMost); }));
  EXPECT_EQ(now("n"), text(whole(kMost))) << "it wrapped";
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 0); });
  EXPECT_FALSE(conflicts_after([](Transaction& t) { t.put_float(at(t, {"m", "n"}), 0.25); }));
  EXPECT_EQ(now("n"), "float 5.250000");
  EXPECT_TRUE(conflicts_after([](Transaction& t) { t.erase(at(t, {"m", "n"})); }));
  EXPECT_EQ(now("n"), "absent");
}

TEST_F(WorkerFold, WhatCannotBeFoldedIsLeftToTheCaller) {
  EXPECT_FALSE(mine.fold(at(mine, {"m", "s"}), Fold::kAdd, whole(1)));
  EXPECT_FALSE(mine.fold(at(mine, {"m"}), Fold::kAdd, whole(1)));
  EXPECT_FALSE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(kMost)));
  EXPECT_FALSE(mine.has_writes());
  EXPECT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(1)));
  EXPECT_FALSE(mine.fold(at(mine, {"m", "n"}), Fold::kMaximum, whole(1)));
  EXPECT_EQ(mine.read(at(mine, {"m", "n"})).integer, 11);
}

TEST_F(WorkerFold, WhetherItIsThereAndItsMappingCountAsEver) {
  Entry* n = at(mine, {"m", "n"});
  EXPECT_TRUE(mine.contains(n));
  ASSERT_TRUE(mine.fold(n, Fold::kAdd, whole(5)));
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 20); });
  EXPECT_EQ(mine.commit().status, Status::kCommitted) << "it is still there";
  EXPECT_EQ(now("n"), "int 25");

  mine.begin(Isolation::kSerializable);
  Entry* absent = at(mine, {"m", "absent"});
  EXPECT_FALSE(mine.contains(absent));
  ASSERT_TRUE(mine.fold(absent, Fold::kAdd, whole(5)));
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "absent"}), 1); });
  EXPECT_EQ(mine.commit().status, Status::kConflict) << "it was seen to be absent";

  mine.begin(Isolation::kSnapshot);
  ASSERT_TRUE(mine.fold(at(mine, {"m", "n"}), Fold::kAdd, whole(5)));
  commit(*second, [](Transaction& t) {
    Mapping* m = t.put_mapping(at(t, {"m"}));
    t.put_int(t.entry(m, key("n")), 0);
  });
  EXPECT_EQ(mine.commit().status, Status::kConflict) << "its mapping is another";
}

TEST_F(WorkerFold, AnyNumberOfWorkersGetOn) {
  constexpr int kWorkers = 3, kRounds = 1000;
  mine.rollback();
  other.rollback();
  std::int64_t sum = 10;
  for (const Kind kind : {Kind::kThreads, Kind::kProcesses}) {
    run_workers(world, kind, kWorkers, [&](Session& s, int) {
      Transaction t(s);
      for (int i = 0; i < kRounds; ++i) {
        t.begin(Isolation::kSerializable);
        EXPECT_TRUE(t.fold(at(t, {"m", "n"}), Fold::kAdd, whole(1)));
        EXPECT_TRUE(t.fold(at(t, {"m", "top"}), Fold::kMaximum, whole(i)));
        ASSERT_EQ(t.commit().status, Status::kCommitted);
      }
    });
    EXPECT_EQ(now("n"), text(whole(sum += kWorkers * kRounds)));
    EXPECT_EQ(now("top"), text(whole(kRounds - 1)));
  }
}

// Puts the sum of what is newest and an operand, as a caller who has his own kind of values would.
class AddingMerger final : public worker::Merger {
 public:
  explicit AddingMerger(std::int64_t operand) : operand_(operand) {}

  bool merge(Transaction& transaction, Entry* entry, const Value& newest) override {
    ++calls;
    if (refuses || newest.kind != Value::Kind::kInt) return false;
    if (interfere) interfere();
    transaction.put_int(entry, newest.integer + operand_);
    return true;
  }

  int calls = 0;
  bool refuses = false;
  std::function<void()> interfere;

 private:
  std::int64_t operand_;
};

TEST_F(WorkerFold, AMergedValueIsSubmittedAgain) {
  AddingMerger merger(5);
  mine.put_int(at(mine, {"m", "n"}), 15);
  other.put_int(at(other, {"m", "n"}), 100);
  ASSERT_EQ(other.commit().status, Status::kCommitted);
  EXPECT_EQ(mine.commit(&merger).status, Status::kCommitted);
  EXPECT_EQ(now("n"), "int 105");
  EXPECT_EQ(merger.calls, 1);
  EXPECT_EQ(conflicts(), 0u);
}

TEST_F(WorkerFold, AMergeThatIsLateIsMadeAgain) {
  AddingMerger merger(5);
  int more = 3;
  merger.interfere = [&] {
    if (more-- > 0) commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 0); });
  };
  mine.put_int(at(mine, {"m", "n"}), 15);
  mine.put_int(at(mine, {"m", "elsewhere"}), 1);
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 100); });
  EXPECT_EQ(mine.commit(&merger).status, Status::kCommitted);
  EXPECT_EQ(merger.calls, 4);
  EXPECT_EQ(now("n"), "int 5");
  EXPECT_EQ(now("elsewhere"), "int 1");
}

TEST_F(WorkerFold, MergingEndsAndThenItIsAConflict) {
  AddingMerger merger(5);
  // Another process's commits, whatever turn this one has asked for.
  merger.interfere = [&] {
    commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 0); });
  };
  mine.put_int(at(mine, {"m", "n"}), 15);
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 100); });
  EXPECT_EQ(mine.commit(&merger).status, Status::kConflict);
  EXPECT_GT(merger.calls, 4);
  EXPECT_EQ(now("n"), "int 0");
}

TEST_F(WorkerFold, WhatCannotBeMergedOrWasReadIsAConflict) {
  AddingMerger merger(5);
  merger.refuses = true;
  mine.put_int(at(mine, {"m", "n"}), 15);
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "n"}), 100); });
  EXPECT_EQ(mine.commit(&merger).status, Status::kConflict);
  EXPECT_EQ(merger.calls, 1);

  merger.refuses = false;
  mine.begin(Isolation::kSerializable);
  mine.read(at(mine, {"m", "f"}));
  mine.put_int(at(mine, {"m", "n"}), 15);
  commit(*second, [](Transaction& t) {
    t.put_int(at(t, {"m", "n"}), 1);
    t.put_float(at(t, {"m", "f"}), 0);
  });
  const CommitResult result = mine.commit(&merger);
  EXPECT_EQ(result.status, Status::kConflict) << "something else was read that has changed";
  EXPECT_FALSE(result.at_write);
  EXPECT_EQ(merger.calls, 1);
}

TEST_F(WorkerFold, WhatWasInsertedMeanwhileIsMergedWith) {
  AddingMerger merger(5);
  mine.put_int(at(mine, {"m", "new"}), 5);
  commit(*second, [](Transaction& t) { t.put_int(at(t, {"m", "new"}), 70); });
  EXPECT_EQ(mine.commit(&merger).status, Status::kCommitted);
  EXPECT_EQ(now("new"), "int 75");
}

}  // namespace
}  // namespace theus::testing
