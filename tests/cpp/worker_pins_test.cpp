// Pins of a session: one for all snapshots of a version, and a limit that says what to do.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using worker::Session;
using worker::Snapshot;
using worker::Transaction;

class WorkerPins : public ::testing::Test {
 protected:
  void step(std::int64_t n) {
    commit(*session, [n](Transaction& t) { t.put_int(at(t, {"n"}), n); });
  }
  std::uint32_t pinned() {
    const shm::Desk& desk = world.space().desk_readable(session->slot());
    std::uint32_t pins = 0;
    for (std::uint32_t i = 0; i < desk.pins_high.load(); ++i) pins += desk.pins[i].load() != 0;
    return pins;
  }

  World world{64ull << 20};
  std::unique_ptr<Session> session = world.attach();
};

TEST_F(WorkerPins, SnapshotsOfOneVersionShareAPin) {
  step(1);
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  for (int i = 0; i < 10'000; ++i) snapshots.push_back(std::make_unique<Snapshot>(*session));
  EXPECT_EQ(pinned(), 1u);
  Transaction t(*session);
  t.begin(worker::Isolation::kSerializable);
  EXPECT_EQ(pinned(), 1u);
  snapshots.erase(snapshots.begin() + 1, snapshots.end());
  t.rollback();
  EXPECT_EQ(pinned(), 1u) << "the last user still reads";
  step(2);
  world.reclaim_all();
  EXPECT_EQ(read(*snapshots[0], {"n"}).integer, 1);
  snapshots.clear();
  EXPECT_EQ(pinned(), 0u);
}

TEST_F(WorkerPins, EachOfManyVersionsStays) {
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  for (int i = 0; i < 500; ++i) {
    step(i);
    snapshots.push_back(std::make_unique<Snapshot>(*session));
  }
  EXPECT_EQ(pinned(), 500u);
  EXPECT_EQ(session->stats().oldest_pin, snapshots[0]->version());
  world.reclaim_all();
  for (std::size_t i = 0; i < snapshots.size(); ++i) {
    EXPECT_EQ(read(*snapshots[i], {"n"}).integer, static_cast<std::int64_t>(i));
  }
  for (std::size_t i = 0; i < snapshots.size(); i += 2) snapshots[i]->close();
  world.reclaim_all();
  for (std::size_t i = 1; i < snapshots.size(); i += 2) {
    EXPECT_EQ(read(*snapshots[i], {"n"}).integer, static_cast<std::int64_t>(i));
  }
}

TEST_F(WorkerPins, AtTheLimitTheErrorNamesTheRemedy) {
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  std::string text;
  for (std::uint32_t i = 0; i <= shm::kPinsPerDesk && text.empty(); ++i) {
    try {
      snapshots.push_back(std::make_unique<Snapshot>(*session));
      if (snapshots.size() < shm::kPinsPerDesk) step(i);
      // The last one is of the newest version: move on without a transaction, which needs a pin.
      if (snapshots.size() == shm::kPinsPerDesk) {
        auto other = world.attach();
        commit(*other, [](Transaction& t) { t.put_int(at(t, {"n"}), -1); });
      }
    } catch (const worker::Error& error) {
      text = error.what();
    }
  }
  ASSERT_EQ(snapshots.size(), shm::kPinsPerDesk);
  EXPECT_NE(text.find(std::to_string(shm::kPinsPerDesk)), std::string::npos) << text;
  EXPECT_NE(text.find("close"), std::string::npos) << text;
  Transaction t(*session);
  EXPECT_THROW(t.begin(worker::Isolation::kSerializable), worker::Error);
  EXPECT_FALSE(t.open());
  snapshots.pop_back();
  t.begin(worker::Isolation::kSerializable);
  EXPECT_EQ(read(t, {"n"}).integer, -1);
}

TEST_F(WorkerPins, AHeldViewKeepsItsBlock) {
  commit(*session, [](Transaction& t) { t.put_bytes(at(t, {"n"}), std::string(30'000, 'x')); });
  auto snapshot = std::make_unique<Snapshot>(*session);
  const worker::Value value = read(*snapshot, {"n"});
  ASSERT_NE(value.block, 0u);
  const std::uint32_t pin = session->pin_block(value.block);
  snapshot.reset();
  for (int i = 0; i < 20; ++i) {
    commit(*session, [](Transaction& t) { t.put_bytes(at(t, {"n"}), std::string(30'000, 'y')); });
    world.reclaim_all();
  }
  EXPECT_EQ(value.bytes(), std::string(30'000, 'x'));
  EXPECT_GT(world.space().header().retained_count.load(), 0u);
  session->unpin_block(pin);
  world.reclaim_all();
  EXPECT_EQ(world.space().header().retained_count.load(), 0u);
}

TEST_F(WorkerPins, BlockPinsHaveALimitAndAreUsedAgain) {
  for (std::uint32_t i = 0; i < shm::kBlockPinsPerDesk; ++i) session->pin_block(1'000'000 + i);
  try {
    session->pin_block(1);
    ADD_FAILURE() << "one too many";
  } catch (const worker::Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(std::to_string(shm::kBlockPinsPerDesk)), std::string::npos) << text;
    EXPECT_NE(text.find("release"), std::string::npos) << text;
  }
  session->unpin_block(17);
  EXPECT_EQ(session->pin_block(1), 17u);
}

}  // namespace
}  // namespace theus::testing
