// The ring of committed writes, by itself: what it remembers, what it admits to have forgotten, and
// what is left of deltas that never came to be.
#include "shm/write_ring.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::kCommitRing;
using shm::kRingPerDelta;
using shm::Link;
using shm::WriteRing;

class ShmWriteRing : public ::testing::Test {
 protected:
  enum class End { kCommitted, kUndone, kDied };

  // One delta that writes `subjects`; what a commit does, or does not come to do.
  void delta(const std::vector<std::uint64_t>& subjects, End end = End::kCommitted) {
    const std::uint64_t version = header.clock.load() + 1;
    journal.begin(version);
    ring.begin(version);
    for (const std::uint64_t subject : subjects) ring.note(Link(subject));
    if (end == End::kUndone) return journal.undo();
    if (end == End::kDied) return shm::StepJournal(world.space()).repair();
    header.clock.store(version);
    journal.end();
  }
  static std::vector<std::uint64_t> many(std::uint64_t count, std::uint64_t from) {
    std::vector<std::uint64_t> subjects;
    for (std::uint64_t i = 0; i < count; ++i) subjects.push_back(from + i);
    return subjects;
  }
  // Subjects written after `version`; `lost`: the ring says that it does not know.
  std::vector<std::uint64_t> since(std::uint64_t version, bool* lost = nullptr) {
    std::vector<std::uint64_t> subjects;
    const auto from = ring.first_above(version);
    if (lost != nullptr) *lost = !from;
    for (std::uint64_t at = from.value_or(ring.end()); at < ring.end(); ++at) {
      const WriteRing::Entry entry = ring.at(at);
      EXPECT_GT(entry.version, version);
      EXPECT_LE(entry.version, header.clock.load());
      if (!entry.subject && lost != nullptr) *lost = true;
      subjects.push_back(entry.subject.raw);
    }
    return subjects;
  }

  World world{shm::kMinCapacityBytes};
  shm::Header& header = world.space().writable();
  shm::StepJournal journal{world.space()};
  WriteRing ring{world.space(), journal};
};

using Subjects = std::vector<std::uint64_t>;

TEST_F(ShmWriteRing, GivesWhatWasWrittenSince) {
  EXPECT_EQ(since(0), Subjects{});
  delta({11, 12});
  delta({});
  delta({21});
  EXPECT_EQ(since(0), (Subjects{11, 12, 21}));
  EXPECT_EQ(since(1), Subjects{21});
  EXPECT_EQ(since(2), Subjects{21});
  EXPECT_EQ(since(3), Subjects{});
}

TEST_F(ShmWriteRing, DeltasThatNeverCameToBeLeaveNothing) {
  delta({11});
  for (const End end : {End::kUndone, End::kDied}) {
    delta(many(kRingPerDelta, 1000), end);
    EXPECT_EQ(since(0), Subjects{11});
    EXPECT_EQ(ring.end(), 1u);
  }
  // The version is used again, and behind what is written now the old entries still stand.
  delta({21});
  EXPECT_EQ(since(0), (Subjects{11, 21}));
  EXPECT_EQ(since(1), Subjects{21});
}

TEST_F(ShmWriteRing, ALargeDeltaSaysThatItDoesNotTellEverything) {
  bool lost = false;
  delta(many(kRingPerDelta - 1, 1));
  EXPECT_EQ(since(0, &lost).size(), kRingPerDelta - 1);
  EXPECT_FALSE(lost);
  delta(many(kRingPerDelta, 1));
  EXPECT_EQ(since(1, &lost).size(), kRingPerDelta);
  EXPECT_TRUE(lost);
  delta(many(5 * kRingPerDelta, 1));
  EXPECT_EQ(since(2, &lost).size(), kRingPerDelta);
  EXPECT_TRUE(lost);
  EXPECT_EQ(since(3, &lost), Subjects{});
  EXPECT_FALSE(lost);
}

TEST_F(ShmWriteRing, AnUndoneDeltaHasOverwrittenTheOldest) {
  std::uint64_t version = 0;
  while (version < kCommitRing + 100) delta({++version});
  delta(many(kRingPerDelta, 1ull << 40), End::kUndone);
  delta({++version});  // now its entries look as if they had been committed
  int known = 0, forgotten = 0;
  for (std::uint64_t back = kCommitRing - 2 * kRingPerDelta; back <= kCommitRing + 2; ++back) {
    bool lost = false;
    const Subjects got = since(version - back, &lost);
    ++(lost ? forgotten : known);
    if (lost) continue;
    ASSERT_EQ(got.size(), back);
    ASSERT_EQ(got.front(), version - back + 1);
  }
  EXPECT_GT(known, 100);
  EXPECT_GT(forgotten, 100);
}

TEST_F(ShmWriteRing, KnowsWhatItHasForgotten) {
  // Whatever it answers is exactly what was written, also right after an undone delta that has
  // overwritten the oldest entries.
  std::mt19937 random(17);
  std::vector<Subjects> written(1);  // by version
  std::uint64_t next_subject = 1;
  int known = 0, forgotten = 0;
  while (written.size() < 20'000) {
    const std::uint64_t count = random() % 200 == 0 ? kRingPerDelta - 1 : random() % 12;
    delta(many(count, next_subject));
    written.push_back(many(count, next_subject));
    next_subject += count;
    if (random() % 50 == 0) {
      delta(many(2 * kRingPerDelta, 1ull << 40), random() % 2 == 0 ? End::kUndone : End::kDied);
    }
    if (written.size() % 40 != 0) continue;
    const std::uint64_t back = random() % 3 == 0 ? random() % 20'000 : random() % 2000;
    const std::uint64_t clock = written.size() - 1;
    const std::uint64_t version = clock - std::min(clock, back);
    bool lost = false;
    const Subjects got = since(version, &lost);
    ++(lost ? forgotten : known);
    Subjects expected;
    for (std::uint64_t v = version + 1; v <= clock; ++v) {
      expected.insert(expected.end(), written[v].begin(), written[v].end());
    }
    if (lost) {
      ASSERT_GT(expected.size() + 2 * kRingPerDelta, kCommitRing) << "it could have known";
    } else {
      ASSERT_EQ(got, expected) << "version " << version << " at clock " << clock;
    }
  }
  EXPECT_GT(ring.end(), 2 * kCommitRing) << "it has not gone round";
  EXPECT_GT(known, 50);
  EXPECT_GT(forgotten, 10);
}

}  // namespace
}  // namespace theus::testing
