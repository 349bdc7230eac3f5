// When a holder of the arbitration lock counts as stuck.
#include <gtest/gtest.h>

#include "coordinator/suspicion.h"

namespace theus::testing {
namespace {

using coordinator::Suspicion;
using Verdict = Suspicion::Verdict;

class CoordinatorSuspicion : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kStopped = 3;
  static constexpr std::uint32_t kOther = 10;

  void SetUp() override { suspicion.begin(holder); }
  // Looks until something else than kWait is said; how many it took, at most `most`.
  std::uint32_t looks(bool stopped, std::uint32_t most = 1000) {
    for (std::uint32_t i = 1; i <= most; ++i) {
      last = suspicion.look(holder, stopped);
      if (last != Verdict::kWait) return i;
    }
    return most;
  }

  Suspicion suspicion{{.looks_stopped = kStopped, .looks_other = kOther}};
  shm::LockHolder holder{.thread_id = 7, .slot = 1, .sequence = 100, .journalled = 5, .clock = 40};
  Verdict last = Verdict::kWait;
};

TEST_F(CoordinatorSuspicion, AHolderThatDoesNothingIsStuck) {
  EXPECT_EQ(looks(false), kOther);
  EXPECT_EQ(last, Verdict::kStuck);
}

TEST_F(CoordinatorSuspicion, AStoppedOneIsStuckSooner) {
  EXPECT_EQ(looks(true), kStopped);
  EXPECT_EQ(last, Verdict::kStuck);
}

TEST_F(CoordinatorSuspicion, LooksThatFoundItStoppedMustFollowEachOther) {
  for (std::uint32_t i = 1; i < kOther; ++i) {
    EXPECT_EQ(suspicion.look(holder, i % kStopped != 0), Verdict::kWait) << i;
  }
  EXPECT_EQ(suspicion.look(holder, false), Verdict::kStuck);
}

TEST_F(CoordinatorSuspicion, SaidOnceAndThenCountedAnew) {
  EXPECT_EQ(looks(false), kOther);
  EXPECT_EQ(looks(false), kOther);
  EXPECT_EQ(last, Verdict::kStuck);
}

TEST_F(CoordinatorSuspicion, AHolderThatGetsOnIsNotStuck) {
  for (std::uint32_t i = 0; i < 20 * kOther; ++i) {
    // A long delta moves the journal's count; a long row of short ones may leave it where it was.
    if (i % (kOther - 1) == 0) ++(i % 2 == 0 ? holder.journalled : holder.clock);
    EXPECT_EQ(suspicion.look(holder, false), Verdict::kWait) << i;
  }
  ++holder.journalled;
  EXPECT_EQ(suspicion.look(holder, false), Verdict::kWait);
  EXPECT_EQ(looks(false), kOther) << "and then it stands still";
}

TEST_F(CoordinatorSuspicion, AnotherHoldOrNoneEndsIt) {
  ++holder.sequence;
  EXPECT_EQ(suspicion.look(holder, true), Verdict::kOver);
  suspicion.begin(holder);
  holder.thread_id = 8;  // it has the lock, and has not counted it yet
  EXPECT_EQ(suspicion.look(holder, true), Verdict::kOver);
  suspicion.begin(holder);
  holder.thread_id = 0;
  EXPECT_EQ(suspicion.look(holder, true), Verdict::kOver);
}

}  // namespace
}  // namespace theus::testing
