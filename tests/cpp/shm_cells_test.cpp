// Cells: linked, freed, collected by their owner, adopted by others, swept after a death.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "shm/cells.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::ExtentHead;
using shm::ExtentKind;

constexpr std::uint32_t kOwner = 3, kOther = 4;
constexpr std::uint8_t kBlockClass = shm::kCellClassCount - 2;  // few cells in an extent

class ShmCells : public ::testing::Test {
 protected:
  // A fresh extent of this class; its cells are in the stock of `owner`.
  std::vector<std::uint32_t> buy(std::uint8_t cell_class, std::uint32_t owner,
                                 std::uint64_t* extent) {
    shm::RunSearch search;
    search.raw_too = true;
    std::uint64_t span = 0;
    EXPECT_EQ(extents.find(search, 1, 1000, extent, &span), shm::RunFound::kFound);
    extents.take(*extent, 1,
                 {ExtentKind::kCells, cell_class, static_cast<std::uint16_t>(owner), 0});
    std::vector<std::uint32_t> units;
    for (std::uint32_t i = 0; i < shm::cells_per_extent(cell_class); ++i) {
      units.push_back(static_cast<std::uint32_t>(
          (extents.offset_of(*extent) + std::uint64_t{i} * shm::kCellBytes[cell_class]) /
          shm::kUnitBytes));
      world.space().writable_cell<shm::CellHeader>(units.back())->state.store(shm::kNoCell);
    }
    return units;
  }
  std::vector<std::uint32_t> collect(std::uint32_t slot, std::uint8_t cell_class) {
    std::vector<std::uint32_t> units;
    units.reserve(shm::cells_per_extent(cell_class));
    cells.collect(slot, cell_class, units);
    std::sort(units.begin(), units.end());
    return units;
  }
  std::uint32_t state(std::uint32_t unit) {
    return world.space().writable_cell<shm::CellHeader>(unit)->state.load();
  }
  void SetUp() override { journal.begin(shm::kNoVersion); }
  void TearDown() override {
    EXPECT_FALSE(journal.full());
    journal.end();
  }

  World world{shm::kMinCapacityBytes};
  shm::StepJournal journal{world.space()};
  shm::Extents extents{world.space(), journal};
  shm::Cells cells{world.space(), journal, extents};
  shm::Header& header = world.space().writable();
};

TEST_F(ShmCells, ReleasedCellsComeBackToTheirOwnerOnce) {
  std::uint64_t extent = 0;
  const auto units = buy(shm::kKey64, kOwner, &extent);
  for (const std::size_t i : {0, 1, 2, 3}) cells.link(units[i]);
  EXPECT_EQ(state(units[1]), shm::kCellLinked);
  EXPECT_TRUE(collect(kOwner, shm::kKey64).empty());
  cells.release(units[1]);
  cells.release(units[3]);
  EXPECT_TRUE(collect(kOwner, shm::kKey128).empty()) << "of another class";
  EXPECT_TRUE(collect(kOther, shm::kKey64).empty()) << "of another owner";
  EXPECT_EQ(collect(kOwner, shm::kKey64), (std::vector<std::uint32_t>{units[1], units[3]}));
  EXPECT_TRUE(collect(kOwner, shm::kKey64).empty());
  EXPECT_EQ(state(units[0]), shm::kCellLinked);
  cells.release(units[0]);
  EXPECT_EQ(collect(kOwner, shm::kKey64), std::vector<std::uint32_t>{units[0]});
}

TEST_F(ShmCells, SeveralExtentsStandInOneList) {
  std::uint64_t extent[3];
  std::vector<std::vector<std::uint32_t>> units;
  for (auto& each : extent) units.push_back(buy(shm::kKey64, kOwner, &each));
  for (const auto& of_one : units) cells.link(of_one[5]);
  for (const auto& of_one : units) cells.release(of_one[5]);
  std::vector<std::uint32_t> got;
  for (int i = 0; i < 3; ++i) {
    const auto some = collect(kOwner, shm::kKey64);
    ASSERT_EQ(some.size(), 1u);
    got.push_back(some[0]);
  }
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, (std::vector<std::uint32_t>{units[0][5], units[1][5], units[2][5]}));
  EXPECT_TRUE(collect(kOwner, shm::kKey64).empty());
}

TEST_F(ShmCells, AFreeExtentOfBlocksBecomesFreeMemory) {
  const std::uint64_t used = header.used_extents.load();
  std::uint64_t extent[3];
  std::vector<std::vector<std::uint32_t>> units;
  for (auto& each : extent) units.push_back(buy(kBlockClass, kOwner, &each));
  // All three have something to collect; the one in the middle of the list leaves it.
  for (const auto& of_one : units) cells.release(of_one[0]);
  for (std::size_t i = 1; i < units[1].size(); ++i) cells.release(units[1][i]);
  EXPECT_EQ(extents.head(extent[1]).kind, ExtentKind::kFreeBacked);
  EXPECT_EQ(header.used_extents.load(), used + 2);
  auto got = collect(kOwner, kBlockClass);
  const auto more = collect(kOwner, kBlockClass);
  got.insert(got.end(), more.begin(), more.end());
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, (std::vector<std::uint32_t>{units[0][0], units[2][0]}));
  EXPECT_TRUE(collect(kOwner, kBlockClass).empty());
}

TEST_F(ShmCells, AFreeExtentOfKeysIsAnybodysButStaysOne) {
  std::uint64_t extent = 0;
  const auto units = buy(shm::kKey1024, kOwner, &extent);
  for (const std::uint32_t unit : units) cells.release(unit);
  EXPECT_EQ(extents.head(extent).kind, ExtentKind::kCells);
  EXPECT_EQ(extents.head(extent).owner, shm::kNoSlot);
  EXPECT_EQ(collect(kOther, shm::kKey1024), units);
  EXPECT_EQ(extents.head(extent).owner, kOther);
  EXPECT_TRUE(collect(kOwner, shm::kKey1024).empty());
}

TEST_F(ShmCells, ARunIsReleasedAsAWhole) {
  const std::uint64_t used = header.used_extents.load();
  extents.take(2, 4, {ExtentKind::kRun, shm::kRunClass, kOwner, 0});
  const auto unit = static_cast<std::uint32_t>(extents.offset_of(2) / shm::kUnitBytes);
  cells.link(unit);
  cells.release(unit);
  EXPECT_EQ(extents.head(2).kind, ExtentKind::kFreeBacked);
  EXPECT_EQ(extents.head(2).length, 4u);
  EXPECT_EQ(header.used_extents.load(), used);
  cells.release(unit);  // there is no cell any more: nothing happens
  EXPECT_EQ(header.used_extents.load(), used);
}

TEST_F(ShmCells, OrphansKeepWhatIsLinkedAndGiveTheRestToAdopters) {
  std::uint64_t extent = 0;
  const auto units = buy(shm::kKey1024, kOwner, &extent);
  cells.link(units[2]);
  cells.link(units[5]);
  cells.link(units[7]);
  cells.release(units[7]);  // in the dead owner's list
  world.space().writable_cell<shm::CellHeader>(units[9])->state.store(shm::kCellHeld);
  journal.end();
  cells.orphan(extent);
  cells.orphan(extent);  // as after a death in the middle: again from the start
  journal.begin(shm::kNoVersion);
  EXPECT_EQ(extents.head(extent).owner, shm::kNoSlot);
  std::vector<std::uint32_t> expected = units;
  expected.erase(expected.begin() + 5);
  expected.erase(expected.begin() + 2);
  EXPECT_EQ(collect(kOther, shm::kKey1024), expected);
  EXPECT_EQ(extents.head(extent).owner, kOther);
  EXPECT_EQ(state(units[2]), shm::kCellLinked);
  EXPECT_EQ(header.slots[kOwner].collect[shm::kKey1024].load(), 0u);
}

TEST_F(ShmCells, OrphanedBlocksWithoutALinkedOneAreFreeMemory) {
  const std::uint64_t used = header.used_extents.load();
  std::uint64_t extent = 0, full = 0;
  const auto units = buy(kBlockClass, kOwner, &extent);
  cells.link(units[0]);
  cells.release(units[0]);
  for (const std::uint32_t unit : buy(kBlockClass, kOwner, &full)) cells.link(unit);
  journal.end();
  cells.orphan(extent);
  cells.orphan(full);
  journal.begin(shm::kNoVersion);
  EXPECT_EQ(extents.head(extent).kind, ExtentKind::kFreeBacked);
  EXPECT_EQ(extents.head(full).kind, ExtentKind::kCells);
  EXPECT_EQ(header.used_extents.load(), used + 1);
  EXPECT_TRUE(collect(kOther, kBlockClass).empty()) << "a full extent has nothing to adopt";
}

TEST_F(ShmCells, UndoTakesAReleaseBack) {
  std::uint64_t extent = 0;
  const auto units = buy(kBlockClass, kOwner, &extent);
  for (const std::uint32_t unit : units) cells.link(unit);
  journal.end();
  journal.begin(shm::kNoVersion);
  for (const std::uint32_t unit : units) cells.release(unit);
  journal.undo();
  journal.begin(shm::kNoVersion);
  for (const std::uint32_t unit : units) EXPECT_EQ(state(unit), shm::kCellLinked);
  EXPECT_EQ(extents.head(extent).kind, ExtentKind::kCells);
  EXPECT_TRUE(collect(kOwner, kBlockClass).empty());
}

}  // namespace
}  // namespace theus::testing
