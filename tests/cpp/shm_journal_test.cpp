// The undo journal: all of a step or nothing of it.
#include <gtest/gtest.h>

#include "shm/journal.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::HalfWord;
using shm::StepJournal;
using shm::Word;

class ShmJournal : public ::testing::Test {
 protected:
  // Words of the shared state that nothing else uses while there are no commits.
  Word& word(std::size_t i) { return header.ring[i].subject; }
  HalfWord& half(std::size_t i) { return header.winner_pid[i]; }

  World world{shm::kMinCapacityBytes};
  shm::Header& header = world.space().writable();
  StepJournal journal{world.space()};
};

TEST_F(ShmJournal, UndoRestoresInReverse) {
  word(0).store(1);
  journal.begin(5);
  journal.set(word(0), 2);
  journal.set(word(0), 3);
  journal.set(word(1), 9);
  EXPECT_EQ(word(0).load(), 3u);
  const std::uint32_t epoch = header.undo_epoch.load();
  journal.undo();
  // The oldest value, which only the first entry knows: undone last.
  EXPECT_EQ(word(0).load(), 1u);
  EXPECT_EQ(word(1).load(), 0u);
  EXPECT_EQ(header.undo_epoch.load(), epoch + 2) << "readers are not told that words went back";
  EXPECT_EQ(header.journal.count.load(), 0u);
}

TEST_F(ShmJournal, WordsThatChangeOftenCostOneEntry) {
  for (std::size_t i = 0; i < 12; ++i) word(i).store(100 + i);
  journal.begin(5);
  for (std::uint64_t n = 1; n <= 1000; ++n) {
    journal.set(word(10), n);
    for (std::size_t i = 0; i < 4; ++i) journal.set_often(word(i), n);
  }
  EXPECT_EQ(header.journal.count.load(), 1004u);
  // More of them than it remembers: more entries, and no less right.
  for (std::uint64_t n = 1; n <= 3; ++n) {
    for (std::size_t i = 0; i < 12; ++i) journal.set_often(word(i), n);
  }
  EXPECT_EQ(word(11).load(), 3u);
  journal.undo();
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(word(i).load(), 100 + i);
  // The next step has to make an entry of its own.
  journal.begin(6);
  journal.set_often(word(11), 1);
  EXPECT_EQ(header.journal.count.load(), 1u);
  journal.undo();
  EXPECT_EQ(word(11).load(), 111u);
}

TEST_F(ShmJournal, HalfWordsLeaveTheirNeighboursAlone) {
  for (std::size_t i = 0; i < 4; ++i) half(i).store(static_cast<std::uint32_t>(10 + i));
  journal.begin(5);
  journal.set(half(1), 100);
  journal.set(half(2), 200);
  half(0).store(77);  // not part of the step
  half(3).store(88);
  journal.undo();
  EXPECT_EQ(half(0).load(), 77u);
  EXPECT_EQ(half(1).load(), 11u);
  EXPECT_EQ(half(2).load(), 12u);
  EXPECT_EQ(half(3).load(), 88u);
}

TEST_F(ShmJournal, TheEpochIsOddUntilAnUndoThatDiedIsDoneAgain) {
  word(0).store(1);
  journal.begin(6);
  journal.set(word(0), 2);
  // As if an owner had died while it restored.
  header.undo_epoch.store(header.undo_epoch.load() | 1);
  const std::uint32_t odd = header.undo_epoch.load();
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);
  EXPECT_EQ(header.undo_epoch.load(), odd + 1);
}

TEST_F(ShmJournal, EndKeepsWhatWasStored) {
  journal.begin(shm::kNoVersion);
  journal.set(word(0), 4);
  journal.end();
  journal.undo();
  StepJournal next(world.space());
  next.repair();
  EXPECT_EQ(word(0).load(), 4u);
}

TEST_F(ShmJournal, AFullJournalStoresNothingMore) {
  journal.begin(5);
  for (std::uint32_t i = 0; i < shm::kJournalEntries; ++i) journal.set(word(i), i + 1);
  EXPECT_FALSE(journal.full());
  journal.set(word(shm::kJournalEntries), 1);
  journal.set_often(word(shm::kJournalEntries), 1);
  journal.set_often(word(shm::kJournalEntries), 2);
  journal.set(half(0), 1);
  EXPECT_TRUE(journal.full());
  EXPECT_EQ(word(0).load(), 1u);
  EXPECT_EQ(word(shm::kJournalEntries).load(), 0u);
  EXPECT_EQ(half(0).load(), 0u);
  journal.undo();
  EXPECT_FALSE(journal.full());
  for (std::uint32_t i = 0; i < shm::kJournalEntries; ++i) ASSERT_EQ(word(i).load(), 0u) << i;
}

TEST_F(ShmJournal, RepairTakesBackOnlyWhatIsAboveTheClock) {
  header.clock.store(5);
  journal.begin(5);
  journal.set(word(0), 1);
  // The maker dies here, after the clock's store: committed.
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);
  EXPECT_EQ(header.journal.count.load(), 0u);

  journal.begin(6);
  journal.set(word(0), 2);
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);

  journal.begin(shm::kNoVersion);
  journal.set(word(0), 3);
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);
}

TEST_F(ShmJournal, RepairMayBeRepeated) {
  word(0).store(1);
  half(7).store(2);
  journal.begin(6);
  journal.set(word(0), 10);
  journal.set(half(7), 20);
  journal.set(word(0), 11);
  const std::uint64_t count = header.journal.count.load();
  StepJournal(world.space()).repair();
  // As if the repairer had died before it ended the step.
  header.journal.count.store(count);
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);
  EXPECT_EQ(half(7).load(), 2u);
}

TEST_F(ShmJournal, WordsWithoutTheirStoreAreRestoredToo) {
  word(0).store(1);
  journal.begin(6);
  journal.set(word(0), 2);
  word(0).store(1);  // the entry has been made, the store has not
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 1u);
}

TEST_F(ShmJournal, ARegionIsUsedAndFoundAgainByRepair) {
  const std::uint64_t region = header.extents_offset.load() + 8 * shm::kExtentBytes;
  journal.begin(6, region, 3);
  journal.set(word(0), 1);
  journal.set(word(1), 2);
  journal.set(word(2), 3);
  EXPECT_FALSE(journal.full());
  EXPECT_EQ(header.journal_entries[0].place.load(), 0u) << "the header's own entries were used";
  journal.set(word(3), 4);
  EXPECT_TRUE(journal.full());
  StepJournal(world.space()).repair();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(word(i).load(), 0u);
}

TEST_F(ShmJournal, AWildRegionIsNotFollowed) {
  const std::uint64_t capacity = world.space().capacity_bytes();
  for (const std::uint64_t region : {capacity, capacity - 8, ~std::uint64_t{7}, capacity * 2,
                                     header.extents_offset.load() + 4}) {
    journal.begin(6, region, 1u << 20);
    journal.set(word(0), 1);
    StepJournal(world.space()).repair();
    EXPECT_EQ(word(0).load(), 0u);
  }
}

TEST_F(ShmJournal, RepairSurvivesWildEntries) {
  journal.begin(6);
  journal.set(word(0), 1);
  header.journal_entries[1].place.store(~std::uint64_t{1});
  header.journal_entries[2].place.store(world.space().capacity_bytes() | 1);
  header.journal.count.store(~std::uint64_t{0});
  StepJournal(world.space()).repair();
  EXPECT_EQ(word(0).load(), 0u);
}

}  // namespace
}  // namespace theus::testing
