// What differs between two snapshots, against walking both of them whole.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/difference.h"

namespace theus::testing {
namespace {

using worker::Change;
using worker::Difference;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;
using Changes = std::vector<std::pair<std::string, Change>>;
using Random = std::mt19937;

int below(Random& random, int bound) {
  return std::uniform_int_distribution<int>(0, bound - 1)(random);
}

std::string join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}

Changes found(const Snapshot& older, const Snapshot& newer) {
  Changes changes;
  Difference difference(older, newer);
  while (difference.next()) {
    std::string path;
    for (const shm::KeyView& each : difference.path()) path = join(path, each.whole());
    changes.emplace_back(path, difference.change());
  }
  return changes;
}

// The same by walking everything: an entry is the same if its record is.
void walk(const Snapshot& older, const Snapshot& newer, std::uint64_t node, const std::string& path,
          Changes* changes) {
  shm::KeyView each;
  Value now;
  Snapshot::Cursor cursor = newer.iterate(node);
  while (newer.next(cursor, &each, &now)) {
    const Value before = older.find(node, each);
    const std::string place = join(path, each.whole());
    if (before.kind == Value::Kind::kAbsent) {
      changes->emplace_back(place, Change::kAdded);
    } else if (before.record != now.record) {
      changes->emplace_back(place, Change::kReplaced);
    } else if (now.kind == Value::Kind::kMapping) {
      walk(older, newer, now.node, place, changes);
    }
  }
  cursor = older.iterate(node);
  while (older.next(cursor, &each, &now)) {
    if (newer.find(node, each).kind == Value::Kind::kAbsent) {
      changes->emplace_back(join(path, each.whole()), Change::kRemoved);
    }
  }
}

Changes walked(const Snapshot& older, const Snapshot& newer) {
  Changes changes;
  walk(older, newer, newer.root(), "", &changes);
  return changes;
}

// One to four operations somewhere in three levels of mappings.
void change_something(Session& session, Random& random) {
  commit(session, [&random](Transaction& t) {
    for (int left = below(random, 4); left >= 0; --left) {
      Mapping* mapping = t.root();
      for (int depth = below(random, 4); depth > 0; --depth) {
        Entry* entry = t.entry(mapping, key("k" + std::to_string(below(random, 4))));
        if (entry->value.kind != Value::Kind::kMapping) break;
        mapping = t.child(entry);
      }
      Entry* entry = t.entry(mapping, key("k" + std::to_string(below(random, 4))));
      switch (below(random, 8)) {
        case 0:
        case 1:
          t.erase(entry);
          break;
        case 2:  // and its content, in the same commit
          mapping = t.put_mapping(entry);
          for (int i = 0; i < 3; ++i) t.put_int(t.entry(mapping, key("k" + std::to_string(i))), i);
          break;
        case 3:
          if (entry->value.kind == Value::Kind::kMapping) t.clear(t.child(entry));
          break;
        case 4:  // goes, comes back, and stands at the end
          t.erase(entry);
          t.put_int(entry, 1);
          break;
        default:
          t.put_int(entry, below(random, 3));
      }
    }
  });
}

class WorkerDifference : public ::testing::Test {
 protected:
  void TearDown() override {
    session.reset();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
};

TEST_F(WorkerDifference, NamesEachPathOnce) {
  commit(*session, [](Transaction& t) {
    for (const char* name : {"same", "changed", "gone"}) {
      Mapping* mapping = t.put_mapping(at(t, {name}));
      for (const char* leaf : {"a", "b"}) t.put_int(t.entry(mapping, key(leaf)), 1);
    }
    t.put_int(at(t, {"leaf"}), 1);
  });
  Snapshot older(*session);
  commit(*session, [](Transaction& t) {
    t.put_int(at(t, {"changed", "c"}), 1);
    t.erase(at(t, {"changed", "a"}));
    t.put_int(at(t, {"changed", "b"}), 1);
    t.erase(at(t, {"gone"}));
    t.put_int(t.entry(t.put_mapping(at(t, {"new"})), key("x")), 1);
  });
  Snapshot newer(*session);
  EXPECT_EQ(found(older, newer), (Changes{{"changed.b", Change::kReplaced},
                                          {"changed.c", Change::kAdded},
                                          {"changed.a", Change::kRemoved},
                                          {"new", Change::kAdded},
                                          {"gone", Change::kRemoved}}));
  EXPECT_TRUE(found(older, older).empty());
  EXPECT_TRUE(found(newer, newer).empty());
}

TEST_F(WorkerDifference, DoesNotWalkWhatHasNotChanged) {
  commit(*session, [](Transaction& t) {
    Mapping* outer = t.put_mapping(at(t, {"outer"}));
    t.put_int(t.entry(t.put_mapping(t.entry(outer, key("same"))), key("x")), 1);
    t.put_int(t.entry(t.put_mapping(t.entry(outer, key("other"))), key("x")), 1);
  });
  Snapshot older(*session);
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"outer", "other", "x"}), 2); });
  Snapshot newer(*session);
  // Nobody can walk that one now.
  auto* same = world.space().cell<shm::NodeRecord>(shm::Link(read(newer, {"outer", "same"}).node));
  auto& first = const_cast<shm::NodeRecord*>(same)->first_chunk;
  const std::uint64_t chunk = first.exchange(shm::Link(1, 0xFFFFFFF0u).raw);
  EXPECT_THROW(walked(older, newer), worker::Error);
  EXPECT_EQ(found(older, newer), (Changes{{"outer.other.x", Change::kReplaced}}));
  first.store(chunk);
}

TEST_F(WorkerDifference, RefusesWhatCannotBeCompared) {
  Snapshot older(*session);
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"x"}), 1); });
  Snapshot newer(*session);
  EXPECT_THROW(Difference(newer, older), worker::Error);
  World elsewhere(shm::kMinCapacityBytes);
  const auto other = elsewhere.attach();
  Snapshot foreign(*other);
  EXPECT_THROW(Difference(foreign, newer), worker::Error);
  older.close();
  EXPECT_THROW(Difference(older, newer), worker::Error);
}

TEST_F(WorkerDifference, IsWhatWalkingEverythingFinds) {
  Random random(7);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::unique_ptr<Snapshot>> kept;
    for (int i = 0; i < 12; ++i) {
      kept.push_back(std::make_unique<Snapshot>(*session));
      for (int n = below(random, 4); n >= 0; --n) change_something(*session, random);
    }
    for (std::size_t i = 0; i < kept.size(); ++i) {
      for (std::size_t j = i; j < kept.size(); ++j) {
        ASSERT_EQ(found(*kept[i], *kept[j]), walked(*kept[i], *kept[j])) << round;
      }
    }
  }
}

TEST_F(WorkerDifference, IsTheSameWhileOthersCommit) {
  std::atomic<bool> over{false};
  std::thread writer([&] {
    const auto own = world.attach();
    Random random(8);
    while (!over) change_something(*own, random);
  });
  for (int round = 0; round < 100; ++round) {
    Snapshot older(*session);
    while (Snapshot(*session).version() < older.version() + 3) std::this_thread::yield();
    Snapshot newer(*session);
    const Changes first = found(older, newer);
    EXPECT_EQ(first, walked(older, newer));
    EXPECT_EQ(first, found(older, newer));
  }
  over = true;
  writer.join();
}

}  // namespace
}  // namespace theus::testing
