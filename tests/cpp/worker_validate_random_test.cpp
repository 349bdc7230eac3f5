// Random read sets against random commits: a worker that validates decides as the arbiter does that
// walks all of them.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Transaction;
using worker::Value;
using Status = worker::CommitResult::Status;
using Random = std::mt19937;

constexpr int kMappings = 4, kSubs = 2, kNames = 6;

int below(Random& random, int bound) {
  return std::uniform_int_distribution<int>(0, bound - 1)(random);
}
std::string name(const char* prefix, int i) { return prefix + std::to_string(i); }

// One of the mappings "m*", or of the "s*" in them; nullptr where there is none now.
Mapping* some_mapping(Transaction& t, Random& random) {
  const std::string top = name("m", below(random, kMappings));
  const int sub = below(random, kSubs + 1);
  Entry* entry = at(t, {top});
  if (entry->value.kind != Value::Kind::kMapping) return nullptr;
  Mapping* mapping = t.child(entry);
  if (sub == kSubs) return mapping;
  Entry* inner = t.entry(mapping, key(name("s", sub)));
  return inner->value.kind == Value::Kind::kMapping ? t.child(inner) : nullptr;
}

void fill(Transaction& t, Mapping* mapping, Random& random) {
  for (int i = 0; i < kNames; ++i) {
    if (below(random, 2) == 0) t.put_int(t.entry(mapping, key(name("k", i))), i);
  }
}

void read_something(Transaction& t, Random& random) {
  Mapping* mapping = some_mapping(t, random);
  const int what = below(random, 10), which = below(random, kNames), most = below(random, 9);
  if (mapping == nullptr) return;
  switch (what) {
    case 0:
      t.size(mapping);
      break;
    case 1:
      t.empty(mapping);
      break;
    case 2:
    case 3: {
      auto cursor = t.iterate(mapping);
      for (int i = 0; i < most; ++i) {
        Entry* entry = t.next(cursor);
        if (entry == nullptr) break;
        if (what == 3) t.read(entry);
      }
      break;
    }
    case 4:
    case 5:
    case 6:
      t.contains(t.entry(mapping, key(name("k", which))));
      break;
    default:
      t.read(t.entry(mapping, key(name("k", which))));
  }
}

void write_something(Transaction& t, Random& random) {
  const int what = below(random, 40), which = below(random, kNames);
  if (what == 0) {
    fill(t, t.put_mapping(at(t, {name("m", below(random, kMappings))})), random);
    return;
  }
  if (what == 1) {
    t.erase(at(t, {name("m", below(random, kMappings))}));
    return;
  }
  Mapping* mapping = some_mapping(t, random);
  if (mapping == nullptr) return;
  Entry* entry = t.entry(mapping, key(name("k", which)));
  if (what == 2) {
    t.clear(mapping);
  } else if (what < 6 && mapping->bound_at->mapping == t.root()) {
    fill(t, t.put_mapping(t.entry(mapping, key(name("s", which % kSubs)))), random);
  } else if (what < 16) {
    t.erase(entry);
  } else if (what < 20) {
    t.erase(entry);
    t.put_int(entry, 5);
  } else {
    t.put_int(entry, 7);
  }
}

class WorkerValidateRandom : public ::testing::Test {
 protected:
  void commit_writes(Random& random, int transactions) {
    for (int i = 0; i < transactions; ++i) {
      commit(*writer, [&](Transaction& t) {
        for (int n = 1 + below(random, 3); n > 0; --n) write_something(t, random);
      });
    }
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> writer = world.attach();
  std::unique_ptr<Session> walked = world.attach(), validated = world.attach();
};

TEST_F(WorkerValidateRandom, DecidesAsTheArbiterDoes) {
  constexpr int kRounds = 6000;
  Random random(20240229);
  validated->internals().validate_above = 0;
  commit(*writer, [&](Transaction& t) {
    for (const char* own : {"early", "validated", "late"}) t.put_int(at(t, {own}), 0);
    for (int m = 0; m < kMappings; ++m) {
      Mapping* mapping = t.put_mapping(at(t, {name("m", m)}));
      fill(t, mapping, random);
      for (int s = 0; s < kSubs; ++s) {
        fill(t, t.put_mapping(t.entry(mapping, key(name("s", s)))), random);
      }
    }
  });
  int committed = 0, lost_before = 0, lost_between = 0, too_careful = 0;
  Transaction early(*walked), late(*walked), t(*validated);
  for (int round = 0; round < kRounds; ++round) {
    const auto seed = static_cast<unsigned>(random());
    // Three with the same reads: one decided as things are when the worker validates, the one that
    // validates, and one decided right after it. None writes what another reads.
    const auto prepare = [&](Transaction& each, const char* own) {
      each.begin(Isolation::kSerializable);
      Random reads(seed);
      for (int n = 1 + below(reads, 8); n > 0; --n) read_something(each, reads);
      each.put_int(at(each, {own}), round);
    };
    prepare(early, "early");
    prepare(t, "validated");
    prepare(late, "late");
    commit_writes(random, below(random, 5));
    const bool early_ok = early.commit().status == Status::kCommitted;
    const int between = below(random, 5);
    int requests = 0;
    validated->internals().before_request = [&] {
      if (++requests == 1) commit_writes(random, between);
      if (requests == 1 && below(random, 8) == 0) world.reclaim_all();
    };
    const bool ok = t.commit().status == Status::kCommitted;
    validated->internals().before_request = nullptr;
    const bool late_ok = late.commit().status == Status::kCommitted;
    // What may be too careful: it has failed when the worker looked, and would be right again now.
    ASSERT_TRUE(!ok || late_ok) << "round " << round << ": a conflict was overlooked";
    ASSERT_TRUE(ok || !late_ok || !early_ok) << "round " << round << ": a conflict out of nothing";
    ASSERT_TRUE(requests > 0 || !early_ok) << "round " << round << ": refuted out of nothing";
    committed += ok ? 1 : 0;
    lost_before += early_ok ? 0 : 1;
    lost_between += early_ok && !ok ? 1 : 0;
    too_careful += !ok && late_ok ? 1 : 0;
    if (round % 500 == 0) {
      const Audit result = audit(world, false);
      ASSERT_TRUE(result.faults.empty()) << result.text();
    }
  }
  // Otherwise this has shown little.
  EXPECT_GT(committed, kRounds / 10);
  EXPECT_GT(lost_before, kRounds / 10);
  EXPECT_GT(lost_between, kRounds / 20);
  EXPECT_LT(too_careful, kRounds / 20);
}

}  // namespace
}  // namespace theus::testing
