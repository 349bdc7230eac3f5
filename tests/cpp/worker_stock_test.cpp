// The stock: cells that a process has bought and nobody else fills.
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <vector>

#include "shm/extents.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/stock.h"

namespace theus::testing {
namespace {

using shm::Link;
using worker::CapacityError;
using worker::Stock;
using worker::Transaction;

class WorkerStock : public ::testing::Test {
 protected:
  void lock() {
    while (!arbiter.lock_for(1'000'000'000)) {
    }
  }
  std::uint64_t used() { return world.space().header().used_extents.load(); }
  void TearDown() override {
    world.evict(slot);
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }

  World world{shm::kMinCapacityBytes};
  std::uint32_t slot = world.admit(getpid());
  shm::Arbiter arbiter{world.space(), slot};
  Stock stock{world.space(), arbiter, [this](worker::OnSignal) { lock(); }};
};

TEST_F(WorkerStock, EveryCellOnceAndNewEachTime) {
  std::set<std::uint32_t> units;
  std::vector<Link> links;
  for (int i = 0; i < 3000; ++i) {
    links.push_back(stock.take(shm::kSmallRecord));
    EXPECT_TRUE(units.insert(links.back().unit()).second);
    EXPECT_TRUE(stock.held(links.back()));
  }
  for (const Link link : links) stock.give_back(link, shm::kSmallRecord);
  for (const Link link : links) EXPECT_FALSE(stock.held(link));
  const std::uint64_t before = used();
  for (int i = 0; i < 3000; ++i) {
    const Link again = stock.take(shm::kSmallRecord);
    EXPECT_EQ(units.count(again.unit()), 1u) << "bought more instead";
    const Link* old = nullptr;
    for (const Link& link : links) {
      if (link.unit() == again.unit()) old = &link;
      if (old != nullptr) break;
    }
    ASSERT_NE(old, nullptr);
    EXPECT_NE(again.generation(), old->generation()) << "a stale link fits again";
    EXPECT_FALSE(stock.held(*old)) << "held by somebody else now";
    EXPECT_TRUE(stock.held(again));
  }
  EXPECT_EQ(used(), before);
}

TEST_F(WorkerStock, CellsOfEveryClassLieInTheirExtents) {
  for (std::uint8_t c = 0; c < shm::kCellClassCount; ++c) {
    const Link link = stock.take(c);
    const auto place = shm::locate_cell(world.space(), link.unit());
    ASSERT_TRUE(place) << int{c};
    EXPECT_EQ(place->cell_class(), c);
    EXPECT_EQ(place->head.owner, slot);
    stock.give_back(link, c);
  }
}

TEST_F(WorkerStock, RunsAreExactAndComeBack) {
  const std::uint64_t before = used();
  const Link run = stock.take_run(3 * shm::kExtentBytes + 1);
  EXPECT_EQ(used(), before + 4);
  EXPECT_TRUE(stock.held(run));
  const auto place = shm::locate_cell(world.space(), run.unit());
  ASSERT_TRUE(place);
  EXPECT_EQ(place->cell_class(), shm::kRunClass);
  EXPECT_EQ(place->head.length, 4u);
  stock.give_back(run, shm::kRunClass);
  EXPECT_EQ(used(), before);
  EXPECT_FALSE(shm::locate_cell(world.space(), run.unit()));
}

TEST_F(WorkerStock, AFullStateIsAnErrorThatSaysWhatToDo) {
  std::vector<Link> runs;
  bool full = false;
  for (int i = 0; i < 1000 && !full; ++i) {
    try {
      runs.push_back(stock.take_run(8 * shm::kExtentBytes));
    } catch (const CapacityError& error) {
      full = true;
      const std::string text = error.what();
      EXPECT_NE(text.find("512 KiB"), std::string::npos) << text;
      EXPECT_NE(text.find("larger capacity"), std::string::npos) << text;
    }
  }
  ASSERT_TRUE(full);
  ASSERT_GT(runs.size(), 10u);
  stock.give_back(runs.back(), shm::kRunClass);
  runs.back() = stock.take_run(8 * shm::kExtentBytes);  // there is room again
  for (const Link run : runs) stock.give_back(run, shm::kRunClass);
  EXPECT_THROW(stock.take_run(world.space().capacity_bytes() + 1), CapacityError);
  EXPECT_THROW(stock.take_run(~std::uint64_t{0} / 2), CapacityError);
}

TEST_F(WorkerStock, CellsRunOutToo) {
  std::vector<Link> cells;
  constexpr std::uint8_t kLargest = shm::kCellClassCount - 1;
  EXPECT_THROW(
      {
        for (int i = 0; i < 10'000; ++i) cells.push_back(stock.take(kLargest));
      },
      CapacityError);
  EXPECT_GT(cells.size(), 100u);
  for (const Link cell : cells) stock.give_back(cell, kLargest);
  // What lies about unused of one class is memory for another.
  const Link run = stock.take_run(2 * shm::kExtentBytes);
  EXPECT_TRUE(stock.held(run));
  stock.give_back(run, shm::kRunClass);
}

TEST_F(WorkerStock, ACommitThatFindsNoRoomLeavesTheStateIntact) {
  auto session = world.attach();
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"n"}), 1); });
  Transaction t(*session);
  t.begin(worker::Isolation::kSerializable);
  t.put_int(at(t, {"n"}), 2);
  EXPECT_THROW(t.put_leaf(at(t, {"huge"}), 64ull << 20), CapacityError);
  EXPECT_EQ(t.read(at(t, {"huge"})).kind, worker::Value::Kind::kAbsent);
  EXPECT_EQ(t.commit().status, worker::CommitResult::Status::kCommitted);
  worker::Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"n"}).integer, 2);
}

}  // namespace
}  // namespace theus::testing
