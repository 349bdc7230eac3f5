// Bounded memory: what is kept is the newest version and what pins can see; everything else comes
// back, to whoever needs it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>

#include "shm/index.h"
#include "shm/versions.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using worker::CapacityError;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;

std::size_t chain_length(World& world, std::string_view name) {
  const shm::Header& header = world.space().header();
  const std::uint64_t root = header.root.load();
  const shm::FoundKey found = shm::find_key(
      world.space(), root, key(name), shm::hash_key(header.hash_seed.load(), root, key(name)));
  std::size_t length = 0;
  for (shm::Link at(found.record->head.load()); at; ++length) {
    at = shm::Link(world.space().cell<shm::VersionRecord>(at)->prev.load());
  }
  return length;
}

TEST(Memory, AHotKeyDoesNotGrow) {
  World world;
  auto session = world.attach();
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"n"}), 0); });
  const std::uint64_t before = session->stats().used_bytes;
#if defined(__SANITIZE_THREAD__)
  constexpr int kCommits = 10'000;
#else
  constexpr int kCommits = 200'000;
#endif
  for (int i = 0; i < kCommits; ++i) {
    commit(*session, [&](Transaction& t) { t.put_int(at(t, {"n"}), i); });
  }
  EXPECT_EQ(session->stats().used_bytes, before);
  EXPECT_LT(chain_length(world, "n"), 200u);
}

TEST(Memory, AnOldPinKeepsOnlyWhatItSees) {
  World world;
  auto session = world.attach();
#if defined(__SANITIZE_THREAD__)
  constexpr int kCold = 300, kHot = 3'000;
#else
  constexpr int kCold = 3000, kHot = 30'000;
#endif
  commit(*session, [](Transaction& t) {
    t.put_int(at(t, {"hot"}), 0);
    for (int i = 0; i < kCold; ++i) t.put_int(at(t, {"cold" + std::to_string(i)}), 0);
  });
  Snapshot old(*session);
  for (int i = 0; i < kCold; ++i) {
    commit(*session, [&](Transaction& t) { t.put_int(at(t, {"cold" + std::to_string(i)}), 1); });
  }
  for (int i = 1; i <= kHot; ++i) {
    commit(*session, [&](Transaction& t) { t.put_int(at(t, {"hot"}), i); });
  }
  EXPECT_LT(chain_length(world, "hot"), 500u) << "a hot key waits behind what is pinned";
  EXPECT_EQ(read(old, {"hot"}).integer, 0);
  EXPECT_EQ(read(old, {"cold7"}).integer, 0);
  old.close();
  world.reclaim_all();
  EXPECT_EQ(world.space().header().retained_count.load(), 0u);
}

TEST(Memory, ManyPinsThatMoveOn) {
  World world;
  auto session = world.attach();
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"n"}), 0); });
  std::deque<std::unique_ptr<Snapshot>> pins;
  for (int i = 0; i < 10'000; ++i) {
    commit(*session, [&](Transaction& t) { t.put_int(at(t, {"n"}), i); });
    pins.push_back(std::make_unique<Snapshot>(*session));
    if (pins.size() > 600) pins.pop_front();
  }
  world.reclaim_all();
  EXPECT_LT(chain_length(world, "n"), 700u);
  EXPECT_EQ(read(*pins.front(), {"n"}).integer, 9'400);
}

TEST(Memory, FullIsAnErrorAndDeletesFree) {
  World world(16ull << 20);
  auto session = world.attach();
  auto put = [&](int i) {
    Transaction t(*session);
    t.begin(worker::Isolation::kSerializable);
    t.put_bytes(at(t, {"k" + std::to_string(i)}), std::string(4000, 'x'));
    t.commit();
  };
  int stored = 0;
  EXPECT_THROW(
      {
        for (; stored < 100'000; ++stored) put(stored);
      },
      CapacityError);
  EXPECT_GT(stored, 1000);
  {
    Snapshot snapshot(*session);
    EXPECT_EQ(snapshot.size(snapshot.root()), static_cast<std::uint64_t>(stored));
    EXPECT_EQ(read(snapshot, {"k0"}).size, 4000u);
  }
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"small"}), 1); });
  for (int i = 0; i < stored; ++i) {
    commit(*session, [&](Transaction& t) {
      ASSERT_TRUE(t.erase(at(t, {"k" + std::to_string(i)})));
    });
  }
  world.reclaim_all();
  // All of it can be used for something of quite another shape, by this process or another.
  auto other = world.attach();
  for (Session* each : {session.get(), other.get()}) {
    commit(*each, [](Transaction& t) {
      t.put_bytes(at(t, {"one"}), std::string(1ull << 20, 'y'));
    });
    commit(*each, [](Transaction& t) { t.erase(at(t, {"one"})); });
    world.reclaim_all();
  }
  session.reset();
  other.reset();
  const Audit result = audit(world, true);
  EXPECT_TRUE(result.faults.empty()) << result.text();
}

TEST(Memory, OverwritingALargeValueBehindPinnedKeys) {
  World world(16ull << 20);
  auto session = world.attach();
  commit(*session, [](Transaction& t) {
    for (int i = 0; i < 3000; ++i) t.put_int(at(t, {"k" + std::to_string(i)}), 0);
  });
  Snapshot old(*session);
  for (int i = 0; i < 3000; ++i) {
    commit(*session, [&](Transaction& t) { t.put_int(at(t, {"k" + std::to_string(i)}), 1); });
  }
  for (int i = 0; i < 20; ++i) {
    commit(*session, [&](Transaction& t) {
      t.put_bytes(at(t, {"large"}), std::string(4ull << 20, static_cast<char>(i)));
    });
  }
  SUCCEED();
}

TEST(Memory, HeldViewsKeepTheirBytes) {
  World world(32ull << 20);
  auto session = world.attach();
  auto put = [&](char c) {
    commit(*session, [&](Transaction& t) {
      t.put_bytes(at(t, {"large"}), std::string(1ull << 20, c));
    });
  };
  put('a');
  Value held;
  std::uint32_t pin = 0;
  {
    Snapshot snapshot(*session);
    held = read(snapshot, {"large"});
    pin = session->pin_block(held.block);
  }
  for (int i = 0; i < 100; ++i) put(static_cast<char>('b' + i % 20));
  EXPECT_EQ(held.bytes(), std::string(1ull << 20, 'a'));
  // Also below a mapping that is deleted.
  session->unpin_block(pin);
  world.reclaim_all();
  EXPECT_EQ(world.space().header().retained_count.load(), 0u);
}

// Cells stay where they were granted: between the large values they would keep what these leave
// behind in pieces.
class LargeValues : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(LargeValues, LeaveRoomForLargerOnes) {
  World world;
  auto session = world.attach();
  const std::uint64_t size = GetParam();
  const auto keys = static_cast<int>(size >> 9);
  int arrays = 0;
  const auto name = [](int i) { return "a" + std::to_string(i); };
  EXPECT_THROW(
      {
        for (;; ++arrays) {
          commit(*session, [&](Transaction& t) {
            t.put_leaf(at(t, {name(arrays)}), size);
            for (int i = 0; i < keys; ++i) {
              t.put_int(at(t, {name(arrays) + "k" + std::to_string(i)}), i);
            }
          });
        }
      },
      CapacityError);
  EXPECT_GT(static_cast<std::uint64_t>(arrays) * size, 35ull << 20);
  for (int i = 0; i < arrays; ++i) {
    commit(*session, [&](Transaction& t) { t.erase(at(t, {name(i)})); });
  }
  world.reclaim_all();
  const std::uint64_t third = world.space().capacity_bytes() / 3;
  EXPECT_GT(session->stats().free_bytes, third);
  commit(*session, [&](Transaction& t) { t.put_leaf(at(t, {"large"}), third); });
  const Audit result = audit(world, false);
  EXPECT_TRUE(result.faults.empty()) << result.text();
}

INSTANTIATE_TEST_SUITE_P(Memory, LargeValues,
                         ::testing::Values(1ull << 20, 256ull << 10, 100ull << 10));

TEST(Memory, AThousandEmptyMappingsTakeManyShortHolds) {
  World world;
  auto session = world.attach();
  commit(*session, [](Transaction& t) {
    auto* m = t.put_mapping(at(t, {"m"}));
    for (int i = 0; i < 1000; ++i) t.put_mapping(t.entry(m, key(std::to_string(i))));
  });
  commit(*session, [](Transaction& t) { t.erase(at(t, {"m"})); });
  ASSERT_TRUE(world.arbiter().lock_for(1'000'000'000));
  // The first round takes the binding, which sends the node to the dead queue.
  EXPECT_FALSE(world.arbiter().reclaim(50));
  EXPECT_TRUE(world.arbiter().reclaim_found());
  const std::uint64_t before = world.space().header().key_count.load();
  EXPECT_TRUE(world.arbiter().reclaim(50));
  const std::uint64_t after = world.space().header().key_count.load();
  world.arbiter().unlock();
  EXPECT_LE(before - after, 60u);
  world.reclaim_all();
  EXPECT_EQ(world.space().header().key_count.load(), 0u);
}

}  // namespace
}  // namespace theus::testing
