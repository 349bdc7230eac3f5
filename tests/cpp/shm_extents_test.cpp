// Runs of extents: found, taken, split, given back and joined again.
#include <gtest/gtest.h>

#include "shm/extents.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::ExtentHead;
using shm::ExtentKind;
using shm::RunFound;
using shm::RunSearch;

class ShmExtents : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kFirstFree = 2;  // behind the root's cells and the directory

  RunFound find(std::uint32_t length, bool raw_too, std::uint64_t* at,
                std::uint64_t hops = 10'000) {
    RunSearch search;
    search.raw_too = raw_too;
    return extents.find(search, length, hops, at, &span);
  }
  void take(std::uint64_t at, std::uint32_t length) {
    extents.take(at, length, {ExtentKind::kRun, shm::kRunClass, 3, 0});
  }
  // Every extent belongs to exactly one run.
  std::uint64_t runs() {
    std::uint64_t heads = 0;
    std::uint64_t next = 0;
    for (std::uint64_t at = 0; at < extents.count(); ++at) {
      const ExtentHead head = extents.head(at);
      if (at < next) {
        EXPECT_EQ(head.kind, ExtentKind::kNotHead) << at;
        continue;
      }
      EXPECT_NE(head.kind, ExtentKind::kNotHead) << at;
      EXPECT_GT(head.length, 0u) << at;
      next = at + (head.length != 0 ? head.length : 1);
      ++heads;
    }
    EXPECT_EQ(next, extents.count());
    return heads;
  }
  void SetUp() override { journal.begin(shm::kNoVersion); }
  void TearDown() override {
    EXPECT_FALSE(journal.full());
    journal.end();
  }

  World world{shm::kMinCapacityBytes};
  shm::Header& header = world.space().writable();
  std::uint64_t span = 0;  // what the last search has found
  shm::StepJournal journal{world.space()};
  shm::Extents extents{world.space(), journal};
};

TEST_F(ShmExtents, HeadsSurvivePacking) {
  const ExtentHead head{ExtentKind::kCells, 25, 1023, 0xFFFFFFFFu};
  const ExtentHead again = ExtentHead::unpack(head.pack());
  EXPECT_EQ(again.kind, head.kind);
  EXPECT_EQ(again.cell_class, head.cell_class);
  EXPECT_EQ(again.owner, head.owner);
  EXPECT_EQ(again.length, head.length);
}

TEST_F(ShmExtents, TakesThePartAndLeavesTheRest) {
  std::uint64_t at = 0;
  const std::uint64_t used = header.used_extents.load(), backed = header.backed_extents.load();
  EXPECT_EQ(find(3, false, &at), RunFound::kNone) << "nothing has memory yet";
  ASSERT_EQ(find(3, true, &at), RunFound::kFound);
  EXPECT_EQ(at, kFirstFree);
  take(at, 3);
  EXPECT_EQ(extents.head(at).length, 3u);
  EXPECT_EQ(extents.head(at).owner, 3u);
  EXPECT_EQ(extents.head(at + 3).kind, ExtentKind::kFreeRaw);
  EXPECT_EQ(extents.head(at + 3).length, extents.reserve_at() - at - 3);
  EXPECT_EQ(header.used_extents.load(), used + 3);
  EXPECT_EQ(header.backed_extents.load(), backed + 3);
  EXPECT_EQ(runs(), 5u);
}

TEST_F(ShmExtents, ReleasedMemoryIsWarmOrRaw) {
  const std::uint64_t used = header.used_extents.load(), backed = header.backed_extents.load();
  take(kFirstFree, 2);
  extents.release(kFirstFree, /*backed=*/true);
  EXPECT_EQ(extents.head(kFirstFree).kind, ExtentKind::kFreeBacked);
  EXPECT_EQ(extents.head(kFirstFree).owner, shm::kNoSlot);
  EXPECT_EQ(header.used_extents.load(), used);
  EXPECT_EQ(header.backed_extents.load(), backed + 2);
  std::uint64_t at = 0;
  ASSERT_EQ(find(2, false, &at), RunFound::kFound);
  take(at, 2);
  EXPECT_EQ(header.backed_extents.load(), backed + 2) << "counted twice";
  extents.release(at, /*backed=*/false);
  EXPECT_EQ(extents.head(at).kind, ExtentKind::kFreeRaw);
  EXPECT_EQ(header.backed_extents.load(), backed);
}

TEST_F(ShmExtents, FreeNeighboursAreJoined) {
  for (std::uint64_t i = 0; i < 4; ++i) take(kFirstFree + i, 1);
  for (std::uint64_t i = 0; i < 4; ++i) extents.release(kFirstFree + i, true);
  std::uint64_t at = 0;
  ASSERT_EQ(find(4, false, &at), RunFound::kFound);
  EXPECT_EQ(at, kFirstFree);
  EXPECT_EQ(extents.head(at).length, 4u);
  EXPECT_EQ(runs(), 5u);
  EXPECT_EQ(find(5, false, &at), RunFound::kNone);
}

TEST_F(ShmExtents, ARunReachesFromWarmMemoryIntoRaw) {
  for (std::uint64_t i = 0; i < 4; ++i) take(kFirstFree + i, 1);
  for (std::uint64_t i = 0; i < 4; ++i) extents.release(kFirstFree + i, true);
  const std::uint64_t backed = header.backed_extents.load(), used = header.used_extents.load();
  std::uint64_t at = 0;
  ASSERT_EQ(find(5, true, &at), RunFound::kFound);
  EXPECT_EQ(at, kFirstFree);
  EXPECT_EQ(span, extents.reserve_at() - kFirstFree) << "all that is free";
  EXPECT_EQ(extents.count_raw(at, 5), 1u);
  EXPECT_EQ(header.backed_extents.load(), backed) << "a search changes no memory";
  take(at, 5);
  EXPECT_EQ(header.backed_extents.load(), backed + 1);
  EXPECT_EQ(header.used_extents.load(), used + 5);
  EXPECT_EQ(runs(), 5u);
  EXPECT_EQ(extents.head(at + 5).kind, ExtentKind::kFreeRaw);
}

TEST_F(ShmExtents, ASearchThatIsCutOffInsideASpanGoesOn) {
  // Warm and raw by turns, more of them than one call may look at.
  constexpr std::uint64_t kRuns = 40;
  for (std::uint64_t i = 0; i < kRuns; ++i) take(kFirstFree + i, 1);
  for (std::uint64_t i = 0; i < kRuns; ++i) extents.release(kFirstFree + i, i % 2 == 0);
  RunSearch search;
  search.raw_too = true;
  std::uint64_t at = 0;
  int calls = 1;
  while (extents.find(search, kRuns, 5, &at, &span) == RunFound::kMore) ASSERT_LT(++calls, 30);
  EXPECT_EQ(at, kFirstFree);
  EXPECT_GE(span, kRuns);
  EXPECT_GT(calls, 5);
  // What was joined counts as not backed.
  const std::uint64_t backed = header.backed_extents.load();
  const std::uint64_t raw = extents.count_raw(at, kRuns);
  take(at, kRuns);
  EXPECT_EQ(header.backed_extents.load(), backed + raw);
  extents.release(at, true);
  EXPECT_EQ(runs(), 5u);
}

TEST_F(ShmExtents, ASplitMakesAHeadWithinTheRightRun) {
  for (std::uint64_t i = 0; i < 4; ++i) take(kFirstFree + i, 1);
  for (std::uint64_t i = 0; i < 4; ++i) extents.release(kFirstFree + i, true);
  std::uint64_t at = 0;
  ASSERT_EQ(find(6, true, &at), RunFound::kFound);
  extents.split(at, kFirstFree + 2);
  extents.split(at, kFirstFree + 9);
  extents.split(at, kFirstFree + 9);
  EXPECT_EQ(extents.head(kFirstFree).length, 2u);
  EXPECT_EQ(extents.head(kFirstFree + 2).length, 2u);
  EXPECT_EQ(extents.head(kFirstFree + 2).kind, ExtentKind::kFreeBacked);
  EXPECT_EQ(extents.head(kFirstFree + 4).length, 5u);
  EXPECT_EQ(extents.head(kFirstFree + 9).kind, ExtentKind::kFreeRaw);
  EXPECT_EQ(runs(), 7u);
}

TEST_F(ShmExtents, SearchesStayInsideOrOutsideOfTheReserve) {
  const std::uint64_t reserve = extents.count() - extents.reserve_at();
  EXPECT_EQ(reserve, shm::reserve_extents(extents.count()));
  std::uint64_t at = 0;
  ASSERT_EQ(find(1, true, &at), RunFound::kFound);
  take(at, static_cast<std::uint32_t>(extents.reserve_at() - at));
  EXPECT_EQ(find(1, true, &at), RunFound::kNone) << "all but the reserve is taken";
  RunSearch search;
  search.raw_too = search.in_reserve = true;
  ASSERT_EQ(extents.find(search, static_cast<std::uint32_t>(reserve), 100, &at, &span),
            RunFound::kFound);
  EXPECT_EQ(at, extents.reserve_at());
  const std::uint32_t returns = header.reserve_returns.load();
  take(at, 2);
  EXPECT_TRUE(extents.reserve(shm::kNoSlot).lent);
  EXPECT_FALSE(extents.reserve(3).lent) << "to itself";
  extents.release(at, true);
  EXPECT_EQ(header.reserve_returns.load(), returns + 1);
  EXPECT_FALSE(extents.reserve(shm::kNoSlot).lent);
  EXPECT_EQ(extents.reserve(shm::kNoSlot).warm, 2u);
  EXPECT_EQ(extents.warm(), 0u) << "not for anybody";
  // What is free before it does not join it.
  extents.release(kFirstFree, true);
  search = {};
  search.raw_too = true;
  EXPECT_EQ(
      extents.find(search, static_cast<std::uint32_t>(extents.reserve_at()), 1000, &at, &span),
      RunFound::kNone);
}

TEST_F(ShmExtents, ARunInUseKeepsItsNeighboursApart) {
  for (std::uint64_t i = 0; i < 5; ++i) take(kFirstFree + i, 1);
  for (const std::uint64_t i : {0, 1, 3, 4}) extents.release(kFirstFree + i, true);
  std::uint64_t at = 0;
  EXPECT_EQ(find(3, false, &at), RunFound::kNone);
  EXPECT_EQ(find(2, false, &at), RunFound::kFound);
  extents.release(kFirstFree + 2, true);
  ASSERT_EQ(find(5, false, &at), RunFound::kFound);
  EXPECT_EQ(at, kFirstFree);
}

TEST_F(ShmExtents, ASearchIsBoundedAndGoesOn) {
  constexpr std::uint64_t kRuns = 60;
  for (std::uint64_t i = 0; i < kRuns; ++i) take(kFirstFree + i, 1);
  for (std::uint64_t i = 0; i < kRuns; i += 2) extents.release(kFirstFree + i, true);
  // The only fit is the last free pair.
  extents.release(kFirstFree + kRuns - 1, true);
  RunSearch search;
  std::uint64_t at = 0;
  int calls = 1;
  RunFound found;
  while ((found = extents.find(search, 2, 5, &at, &span)) == RunFound::kMore) {
    ASSERT_LT(++calls, 100);
    journal.end();
    journal.begin(shm::kNoVersion);  // the lock is let go of in between
  }
  ASSERT_EQ(found, RunFound::kFound);
  EXPECT_EQ(at, kFirstFree + kRuns - 2);
  EXPECT_GT(calls, 5);
}

TEST_F(ShmExtents, ASearchThatFindsNothingEnds) {
  RunSearch search;
  std::uint64_t at = 0;
  int calls = 0;
  while (extents.find(search, static_cast<std::uint32_t>(extents.count()), 3, &at, &span) ==
         RunFound::kMore) {
    ASSERT_LT(++calls, 2000);
  }
  EXPECT_GT(calls, 0);
}

TEST_F(ShmExtents, ASearchWhoseHeadHasGoneStartsAgain) {
  RunSearch search;
  search.at = kFirstFree + 1;  // inside the free run: no head
  search.raw_too = true;
  std::uint64_t at = 0;
  ASSERT_EQ(extents.find(search, 1, 100, &at, &span), RunFound::kFound);
  EXPECT_EQ(at, kFirstFree);
  search.at = extents.count() + 100;
  EXPECT_EQ(extents.find(search, 1, 100, &at, &span), RunFound::kFound);
}

TEST_F(ShmExtents, AnUndoneGrantLeavesTheTableAsItWas) {
  const std::uint64_t used = header.used_extents.load();
  take(kFirstFree, 3);
  journal.undo();
  EXPECT_EQ(extents.head(kFirstFree).kind, ExtentKind::kFreeRaw);
  EXPECT_EQ(runs(), 4u);
  EXPECT_EQ(header.used_extents.load(), used);
}

TEST_F(ShmExtents, CellsAreFoundByTheirStartsOnly) {
  const shm::Space& space = world.space();
  const auto unit = [&](std::uint64_t extent, std::uint64_t bytes) {
    return static_cast<std::uint32_t>((extents.offset_of(extent) + bytes) / shm::kUnitBytes);
  };
  // 65536 = 1365 cells of 48 bytes and 16 bytes that are no cell.
  extents.take(kFirstFree, 1, {ExtentKind::kCells, shm::kSmallRecord, 3, 0});
  extents.take(kFirstFree + 1, 2, {ExtentKind::kRun, shm::kRunClass, 3, 0});
  const auto place = shm::locate_cell(space, unit(kFirstFree, 2 * 48));
  ASSERT_TRUE(place);
  EXPECT_EQ(place->extent, kFirstFree);
  EXPECT_EQ(place->index, 2u);
  EXPECT_EQ(place->cell_class(), shm::kSmallRecord);
  EXPECT_FALSE(shm::locate_cell(space, unit(kFirstFree, 16)));
  EXPECT_FALSE(shm::locate_cell(space, unit(kFirstFree, 1365 * 48)));
  ASSERT_TRUE(shm::locate_cell(space, unit(kFirstFree + 1, 0)));
  EXPECT_EQ(shm::locate_cell(space, unit(kFirstFree + 1, 0))->cell_class(), shm::kRunClass);
  EXPECT_FALSE(shm::locate_cell(space, unit(kFirstFree + 1, 64)));
  EXPECT_FALSE(shm::locate_cell(space, unit(kFirstFree + 2, 0))) << "inside the run";
  EXPECT_FALSE(shm::locate_cell(space, unit(1, 0))) << "the directory";
  EXPECT_FALSE(shm::locate_cell(space, unit(kFirstFree + 3, 0))) << "free";
  EXPECT_FALSE(shm::locate_cell(space, unit(extents.count(), 0))) << "behind the end";
  EXPECT_FALSE(shm::locate_cell(space, 0));
  EXPECT_FALSE(shm::locate_cell(space, 0xFFFFFFFFu));
}

}  // namespace
}  // namespace theus::testing
