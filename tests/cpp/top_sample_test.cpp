#include "tools/top/sample.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "tests/cpp/harness.h"

namespace theus::top {
namespace {

using testing::key;

void increment(worker::Session& session) {
  testing::commit(session,
                  [](worker::Transaction& t) { t.put_int(t.entry(t.root(), key("n")), 1); });
}

class TopSample : public ::testing::Test {
 protected:
  Sample take() { return take_sample(observer_, 5); }

  testing::World world_;
  shm::Space observer_{world_.fds(), shm::Access::kObserver};
};

TEST_F(TopSample, OfAnEmptyState) {
  const Sample sample = take();
  EXPECT_EQ(sample.taken_ns, 5u);
  EXPECT_EQ(sample.clock, 0u);
  EXPECT_TRUE(sample.workers.empty());
  EXPECT_LE(sample.used_bytes, sample.backed_bytes);
  EXPECT_LT(sample.backed_bytes, sample.capacity_bytes);
}

TEST_F(TopSample, SeesWorkersAndWhatTheyDid) {
  const auto one = world_.attach();
  auto two = world_.attach();
  for (int i = 0; i < 3; ++i) increment(*one);
  increment(*two);
  Sample sample = take();
  EXPECT_EQ(sample.clock, 4u);
  EXPECT_EQ(sample.keys, 1u);
  ASSERT_EQ(sample.workers.size(), 2u);
  EXPECT_EQ(sample.workers[0].slot, one->slot());
  EXPECT_EQ(sample.workers[0].commits, 3u);
  EXPECT_EQ(sample.workers[1].commits, 1u);
  EXPECT_EQ(sample.workers[0].pid, static_cast<std::uint32_t>(getpid()));
  const std::uint32_t slot = two->slot();
  const std::uint64_t admission = sample.workers[1].admission;
  two.reset();
  world_.evict(slot);
  EXPECT_EQ(take().workers.size(), 1u);
  two = world_.attach();
  sample = take();
  ASSERT_EQ(sample.workers.size(), 2u);
  EXPECT_NE(sample.workers[1].admission, admission);
}

TEST_F(TopSample, FindsTheOldestPin) {
  const auto session = world_.attach();
  increment(*session);
  worker::Snapshot old(*session);
  increment(*session);
  increment(*session);
  worker::Snapshot young(*session);
  Sample sample = take();
  ASSERT_EQ(sample.workers.size(), 1u);
  EXPECT_EQ(sample.workers[0].pins, 2u);
  ASSERT_TRUE(sample.workers[0].oldest_pin);
  EXPECT_EQ(sample.workers[0].oldest_pin->version, 1u);
  old.close();
  EXPECT_EQ(take().workers[0].oldest_pin->version, 3u);
  young.close();
  sample = take();
  EXPECT_EQ(sample.workers[0].pins, 0u);
  EXPECT_FALSE(sample.workers[0].oldest_pin);
}

TEST_F(TopSample, BelievesNothing) {
  const auto session = world_.attach();
  increment(*session);
  shm::Header& header = world_.space().writable();
  shm::Desk& desk = world_.space().desk(session->slot());
  const std::uint64_t extents = header.extent_count.load();
  const std::uint32_t slots = header.slots_high.load();
  const std::uint32_t pins = desk.pins_high.load();
  const std::uint32_t blocks = desk.block_pins_high.load();
  const std::uint64_t used = header.used_extents.load();
  header.extent_count = ~std::uint64_t{0};
  header.used_extents = ~std::uint64_t{0};
  header.slots_high = ~0u;
  desk.pins_high = ~0u;
  desk.block_pins_high = ~0u;
  desk.pins[shm::kPinsPerDesk - 1] = ~std::uint64_t{0};
  std::memset(desk.label, 'x', sizeof desk.label);  // no end
  const Sample sample = take();
  header.extent_count = extents;
  header.used_extents = used;
  header.slots_high = slots;
  desk.pins_high = pins;
  desk.block_pins_high = blocks;
  desk.pins[shm::kPinsPerDesk - 1] = 0;
  std::memset(desk.label, 0, sizeof desk.label);
  EXPECT_LE(sample.capacity_bytes, observer_.capacity_bytes());
  EXPECT_LE(sample.used_bytes, sample.capacity_bytes);
  ASSERT_EQ(sample.workers.size(), 1u);
  EXPECT_EQ(sample.workers[0].label, std::string(shm::kLabelBytes, 'x'));
  EXPECT_EQ(sample.workers[0].oldest_pin->version, sample.clock);
}

TEST(TopPrintable, LeavesOnlyWhatCanBePrinted) {
  const auto shown = [](const std::string& text) { return printable(text.data(), text.size()); };
  EXPECT_EQ(shown("import"), "import");
  EXPECT_EQ(shown(std::string("ab\0cd", 5)), "ab");
  EXPECT_EQ(shown("a\x1b[2Jb\n\x7f"), "a?[2Jb??");
  EXPECT_EQ(shown("\u00e4 \u20ac \U0001F600"), "\u00e4 \u20ac \U0001F600");
  EXPECT_EQ(shown("\xC2\x9B"
                  "31m"),
            "??31m");                  // a control character of two bytes
  EXPECT_EQ(shown("\xC0\xAF"), "??");  // overlong
  EXPECT_EQ(shown("\xE0\x80\xAF"), "???");
  EXPECT_EQ(shown("\xED\xA0\x80"), "???");       // surrogate
  EXPECT_EQ(shown("\xF4\x90\x80\x80"), "????");  // beyond Unicode
  EXPECT_EQ(shown("\xE2\x82"), "??");            // cut off
}

}  // namespace
}  // namespace theus::top
