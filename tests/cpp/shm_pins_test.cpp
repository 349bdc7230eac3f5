// Pins and what a scan of them says may go.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <unistd.h>
#include <vector>

#include "shm/pins.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::Pins;
using shm::PinScan;

class ShmPins : public ::testing::Test {
 protected:
  void clock(std::uint64_t version) { header.clock.store(version); }
  PinScan& scanned() {
    scan->scan(world.space());
    return *scan;
  }

  World world{shm::kMinCapacityBytes};
  shm::Header& header = world.space().writable();
  std::uint32_t slot = world.admit(getpid());
  Pins pins{world.space(), slot};
  std::unique_ptr<PinScan> scan = std::make_unique<PinScan>();
};

TEST_F(ShmPins, TakesTheNewestVersion) {
  clock(7);
  std::uint32_t pin = 99;
  std::uint64_t version = 0;
  ASSERT_TRUE(pins.take(&pin, &version));
  EXPECT_EQ(version, 7u);
  EXPECT_EQ(world.space().desk(slot).pins[pin].load(), 8u);
  EXPECT_LT(pin, world.space().desk(slot).pins_high.load());
  pins.release(pin);
  EXPECT_EQ(world.space().desk(slot).pins[pin].load(), 0u);
}

TEST_F(ShmPins, FreePlacesAreUsedAgain) {
  std::uint32_t pin = 0, other = 0;
  std::uint64_t version = 0;
  for (int i = 0; i < 100; ++i) {
    clock(static_cast<std::uint64_t>(i));
    ASSERT_TRUE(pins.take(&pin, &version));
    ASSERT_TRUE(pins.take(&other, &version));
    EXPECT_NE(pin, other);
    pins.release(pin);
    pins.release(other);
  }
  EXPECT_EQ(world.space().desk(slot).pins_high.load(), 2u);
}

TEST_F(ShmPins, TheLastPlaceIsTheLimit) {
  std::uint32_t pin = 0;
  std::uint64_t version = 0;
  for (std::uint32_t i = 0; i < shm::kPinsPerDesk; ++i) ASSERT_TRUE(pins.take(&pin, &version));
  EXPECT_FALSE(pins.take(&pin, &version));
  pins.release(1234);
  ASSERT_TRUE(pins.take(&pin, &version));
  EXPECT_EQ(pin, 1234u);
}

TEST_F(ShmPins, ScansTellWhatNobodyCanSee) {
  std::uint32_t pin = 0;
  std::uint64_t version = 0;
  for (const std::uint64_t at : {10, 20}) {
    clock(at);
    ASSERT_TRUE(pins.take(&pin, &version));
  }
  clock(30);
  const PinScan& seen = scanned();
  EXPECT_EQ(header.reclaim_clock.load(), 30u);
  EXPECT_EQ(seen.clock(), 30u);
  EXPECT_EQ(seen.oldest(), 10u);
  EXPECT_TRUE(seen.invisible(0, 10)) << "died in the very version of the oldest pin";
  EXPECT_FALSE(seen.invisible(0, 11));
  EXPECT_FALSE(seen.invisible(10, 11));
  EXPECT_TRUE(seen.invisible(11, 20));
  EXPECT_FALSE(seen.invisible(11, 21));
  EXPECT_FALSE(seen.invisible(20, 30));
  EXPECT_TRUE(seen.invisible(21, 30));
  EXPECT_FALSE(seen.invisible(21, 31)) << "above the scan's clock";
  EXPECT_FALSE(seen.invisible(1, 0)) << "alive";
}

TEST_F(ShmPins, WithoutPinsTheClockIsTheOldest) {
  clock(30);
  EXPECT_EQ(scanned().oldest(), 30u);
  EXPECT_TRUE(scan->invisible(0, 30));
  EXPECT_FALSE(scan->invisible(0, 31));
}

TEST_F(ShmPins, TooManyPinsKeepEverythingFromTheOldestOn) {
  // Three desks full of different versions: more than a scan tells apart.
  for (std::uint64_t d = 0; d < 3; ++d) {
    shm::Desk& desk = world.space().desk(d == 0 ? slot : world.admit(getpid()));
    desk.pins_high.store(shm::kPinsPerDesk);
    // The oldest is read last.
    for (std::uint64_t i = 0; i < shm::kPinsPerDesk; ++i) {
      desk.pins[i].store(100'001 - 2 * (d * shm::kPinsPerDesk + i));
    }
  }
  clock(200'000);
  const std::uint64_t oldest = 100'000 - 2 * (3 * shm::kPinsPerDesk - 1);
  EXPECT_EQ(scanned().oldest(), oldest);
  EXPECT_TRUE(scan->invisible(0, oldest));
  EXPECT_FALSE(scan->invisible(oldest + 1, oldest + 2)) << "between two pins";
  EXPECT_FALSE(scan->invisible(150'000, 160'000));
}

TEST_F(ShmPins, BlockPins) {
  shm::Desk& desk = world.space().desk(slot);
  desk.block_pins_high.store(3);
  desk.block_pins[0].store(500);
  desk.block_pins[2].store(300);
  desk.block_pins[3].store(400);  // beyond what is in use
  EXPECT_TRUE(scanned().block_pinned(500));
  EXPECT_TRUE(scan->block_pinned(300));
  EXPECT_FALSE(scan->block_pinned(400));
  EXPECT_FALSE(scan->block_pinned(0));
  desk.block_pins[0].store(0);
  EXPECT_FALSE(scanned().block_pinned(500));
}

TEST_F(ShmPins, TooManyBlockPinsKeepEveryBlock) {
  for (std::uint32_t d = 0; d < 5; ++d) {
    shm::Desk& desk = world.space().desk(d == 0 ? slot : world.admit(getpid()));
    desk.block_pins_high.store(shm::kBlockPinsPerDesk);
    for (std::uint32_t i = 0; i < shm::kBlockPinsPerDesk; ++i) {
      desk.block_pins[i].store(d * shm::kBlockPinsPerDesk + i + 1);
    }
  }
  EXPECT_TRUE(scanned().block_pinned(1'000'000));
}

TEST_F(ShmPins, CopiesInManySlotsAreNotTooMany) {
  shm::Desk& desk = world.space().desk(slot);
  desk.pins_high.store(shm::kPinsPerDesk);
  desk.block_pins_high.store(shm::kBlockPinsPerDesk);
  for (std::uint32_t i = 0; i < shm::kPinsPerDesk; ++i) desk.pins[i].store(2 * i + 11);
  for (std::uint32_t i = 0; i < shm::kBlockPinsPerDesk; ++i) desk.block_pins[i].store(i + 1);
  for (int child = 0; child < 12; ++child) {
    shm::copy_pins(desk, world.space().desk(world.admit(getpid())));
  }
  clock(100'000);
  const PinScan& found = scanned();
  EXPECT_FALSE(found.invisible(10, 11));
  EXPECT_TRUE(found.invisible(11, 12)) << "a version between two that are pinned";
  EXPECT_TRUE(found.block_pinned(shm::kBlockPinsPerDesk));
  EXPECT_FALSE(found.block_pinned(shm::kBlockPinsPerDesk + 1));
  EXPECT_EQ(found.oldest(), 10u);
}

TEST_F(ShmPins, ACopyIsTheWholeOfIt) {
  shm::Desk& from = world.space().desk(slot);
  shm::Desk& to = world.space().desk(world.admit(getpid()));
  from.pins_high.store(2);
  from.pins[0].store(0);
  from.pins[1].store(8);
  from.block_pins_high.store(1);
  from.block_pins[0].store(77);
  to.pins_high.store(3);  // of a tenant before
  for (int i = 0; i < 3; ++i) to.pins[i].store(5);
  shm::copy_pins(from, to);
  EXPECT_EQ(to.pins[0].load(), 0u);
  EXPECT_EQ(to.pins[1].load(), 8u);
  EXPECT_EQ(to.pins[2].load(), 0u);
  EXPECT_EQ(to.pins_high.load(), 3u) << "it only grows";
  EXPECT_EQ(to.block_pins[0].load(), 77u);
  EXPECT_EQ(to.block_pins_high.load(), 1u);
  EXPECT_EQ(from.pins[1].load(), 8u);
}

TEST_F(ShmPins, APinThatCameTooLateIsTakenAgain) {
  // As if a scan had come between the reader's look at the clock and its pin.
  clock(5);
  header.reclaim_clock.store(10);
  std::uint64_t version = 0;
  std::atomic<bool> returned{false};
  std::thread reader([&] {
    std::uint32_t pin = 0;
    EXPECT_TRUE(pins.take(&pin, &version));
    returned = true;
  });
  const shm::Desk& desk = world.space().desk(slot);
  while (desk.pins[0].load() != 6 && !returned.load()) std::this_thread::yield();
  clock(10);
  reader.join();
  EXPECT_EQ(version, 10u);
  EXPECT_EQ(desk.pins[0].load(), 11u);
}

// The second look: a scan and a reader race for the same version. Whoever holds a pin never finds
// that a scan has given its version up.
TEST_F(ShmPins, NoScanGivesUpAVersionThatIsPinned) {
  constexpr std::uint64_t kVersions = 20'000;
  std::vector<std::atomic<bool>> gone(kVersions + 1);
  std::atomic<bool> done{false};
  std::atomic<int> taken{0}, wrong{0};
  std::thread reader([&] {
    while (!done.load()) {
      std::uint32_t pin = 0;
      std::uint64_t version = 0;
      if (!pins.take(&pin, &version)) return;
      for (int i = 0; i < 20; ++i) wrong += gone[version].load() ? 1 : 0;
      pins.release(pin);
      ++taken;
    }
  });
  std::uint64_t version = 0;
  while (version < kVersions) {
    clock(++version);
    const PinScan& seen = scanned();
    const std::uint64_t from = version > 4 ? version - 4 : 0;
    for (std::uint64_t v = from; v < version; ++v) {
      if (seen.invisible(v, v + 1)) gone[v].store(true);
    }
  }
  while (taken.load() == 0) std::this_thread::yield();
  done = true;
  reader.join();
  EXPECT_EQ(wrong.load(), 0) << "of " << taken.load();
}

}  // namespace
}  // namespace theus::testing
