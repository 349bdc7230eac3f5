// The index: one sorted list, buckets that are set up as they are needed, readers without a lock.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shm/extents.h"
#include "shm/index.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::KeyRecord;
using shm::KeyView;
using shm::Link;

constexpr std::uint64_t kNode = 0x100000123ull;

class ShmIndex : public ::testing::Test {
 protected:
  std::uint64_t hash(std::string_view text) { return shm::hash_key(seed, kNode, key(text)); }

  // A fresh cell for a key, or `reused`, whose generation is raised first.
  Link fill(std::string_view text, std::uint64_t sort, std::uint32_t reused = 0) {
    std::uint32_t unit = reused;
    if (unit == 0) {
      if (cells.empty()) buy();
      unit = cells.back();
      cells.pop_back();
    }
    auto& record = *world.space().writable_cell<KeyRecord>(unit);
    const std::uint32_t generation = shm::next_generation(record.cell.generation.load());
    record.cell.generation.store(generation, std::memory_order_release);
    record.sort.store(sort, std::memory_order_release);
    record.node.store(kNode, std::memory_order_release);
    const auto size = static_cast<std::uint16_t>(text.size());
    record.shape.store(shm::KeyShape{size, size, false}.pack(), std::memory_order_release);
    std::uint64_t words[2] = {0, 0};
    text.copy(reinterpret_cast<char*>(words), sizeof(words));
    for (int i = 0; i < 2; ++i) record.key[i].store(words[i], std::memory_order_release);
    return Link(generation, unit);
  }
  Link insert(std::string_view text, std::uint32_t reused = 0) {
    const Link link = fill(text, shm::key_sort(hash(text)), reused);
    journal.begin(shm::kNoVersion);
    index.insert(link);
    journal.end();
    return link;
  }
  void remove(Link link) {
    journal.begin(shm::kNoVersion);
    index.remove(link);
    journal.end();
  }
  void grow(std::uint64_t keys) {
    while (header.segments_ready.load() * std::uint64_t{shm::kBucketsPerSegment} < keys) {
      journal.begin(shm::kNoVersion);
      const std::uint64_t at = take({shm::ExtentKind::kDirectory, 0, shm::kNoSlot, 0});
      index.add_segment(at);
      journal.end();
    }
    journal.begin(shm::kNoVersion);
    index.double_buckets(keys);
    journal.end();
  }
  std::uint32_t find(std::string_view text) { return index.find(kNode, key(text), hash(text)); }
  bool seen(std::string_view text) {
    return shm::find_key(world.space(), kNode, key(text), hash(text)).record != nullptr;
  }
  // Walks the whole list; every key once, in order, behind the marker of its bucket.
  std::size_t walk() {
    const auto entry = [&](std::uint32_t bucket) {
      const std::uint64_t extent = header.directory[bucket / shm::kBucketsPerSegment].load() - 1;
      return reinterpret_cast<const shm::Word*>(
          world.space().readable_base() + extents.offset_of(extent) +
          bucket % shm::kBucketsPerSegment * sizeof(shm::Word));
    };
    std::size_t keys = 0;
    std::uint64_t last = 0;
    std::set<std::uint32_t> markers;
    Link at(entry(0)->load());
    for (; at && at != shm::kListEnd && keys <= 1'000'000; ) {
      std::uint64_t sort = 0;
      if (at.is_marker()) {
        EXPECT_TRUE(markers.insert(at.unit()).second) << "marker " << at.unit() << " twice";
        sort = shm::marker_sort(at.unit());
        at = Link(entry(at.unit())->load());
      } else {
        const auto* record = world.space().cell<KeyRecord>(at);
        EXPECT_EQ(record->cell.generation.load(), at.generation());
        sort = record->sort.load();
        at = Link(record->next.load());
        ++keys;
      }
      EXPECT_GE(sort, last);
      last = sort;
    }
    EXPECT_EQ(at, shm::kListEnd);
    return keys;
  }

  World world{64ull << 20};
  shm::Header& header = world.space().writable();
  std::uint64_t seed = header.hash_seed.load();
  shm::StepJournal journal{world.space()};
  shm::Extents extents{world.space(), journal};
  shm::Index index{world.space(), journal};
  std::vector<std::uint32_t> cells;

 private:
  std::uint64_t take(shm::ExtentHead head) {
    shm::RunSearch search;
    search.raw_too = true;
    std::uint64_t at = 0;
    std::uint64_t span = 0;
    if (extents.find(search, 1, 100'000, &at, &span) != shm::RunFound::kFound) {
      throw std::runtime_error("the state is full");
    }
    extents.take(at, 1, head);
    return at;
  }
  void buy() {
    journal.begin(shm::kNoVersion);
    const std::uint64_t at = take({shm::ExtentKind::kCells, shm::kKey64, shm::kNoSlot, 0});
    journal.end();
    for (std::uint32_t i = shm::cells_per_extent(shm::kKey64); i-- > 0;) {
      cells.push_back(
          static_cast<std::uint32_t>((extents.offset_of(at) + i * 64) / shm::kUnitBytes));
    }
  }
};

TEST(ShmIndexBits, AreReversed) {
  EXPECT_EQ(shm::reverse_bits(1), 1ull << 63);
  EXPECT_EQ(shm::reverse_bits(0xF0F0'0000'0000'0001ull), 0x8000'0000'0000'0F0Full);
  for (const std::uint64_t value : {0ull, 1ull, 0x0123'4567'89AB'CDEFull, ~0ull}) {
    EXPECT_EQ(shm::reverse_bits(shm::reverse_bits(value)), value);
  }
  // A marker comes before each of its bucket's keys, and never has the place of a key.
  EXPECT_LT(shm::marker_sort(5), shm::key_sort(5));
  EXPECT_EQ(shm::marker_sort(5) & 1, 0u);
}

TEST(ShmIndexBits, KeyShapesSurvivePacking) {
  for (const bool queued : {false, true}) {
    const auto shape = shm::KeyShape::unpack(
        shm::KeyShape{shm::kMaxKeyBytes, shm::kMaxKeyBytes - 1, queued}.pack());
    EXPECT_EQ(shape.size, shm::kMaxKeyBytes);
    EXPECT_EQ(shape.compared, shm::kMaxKeyBytes - 1);
    EXPECT_EQ(shape.queued, queued);
  }
}

TEST_F(ShmIndex, FindsWhatIsThereAndNothingElse) {
  EXPECT_EQ(find("a"), 0u);
  EXPECT_FALSE(seen("a"));
  const Link a = insert("a"), b = insert("b");
  EXPECT_EQ(find("a"), a.unit());
  EXPECT_EQ(find("b"), b.unit());
  EXPECT_EQ(find("c"), 0u);
  EXPECT_EQ(index.find(kNode + 1, key("a"), hash("a")), 0u) << "of another node";
  EXPECT_EQ(shm::find_key(world.space(), kNode, key("a"), hash("a")).link, a);
  EXPECT_EQ(header.key_count.load(), 2u);
  remove(a);
  EXPECT_EQ(find("a"), 0u);
  EXPECT_TRUE(seen("b"));
  remove(a);  // not in the list any more
  EXPECT_EQ(header.key_count.load(), 1u);
  EXPECT_EQ(walk(), 1u);
}

TEST_F(ShmIndex, OnlyTheComparedPrefixCounts) {
  const Link link = insert("prefix");
  auto& record = *world.space().writable_cell<KeyRecord>(link.unit());
  EXPECT_TRUE(shm::same_key(record, KeyView("prefix and more", 15, 6)));
  EXPECT_FALSE(shm::same_key(record, KeyView("prefix", 6, 5)));
  EXPECT_FALSE(shm::same_key(record, KeyView("prefiy", 6, 6)));
  // Every length, through words and tails.
  const std::string text = "0123456789abcdef";
  for (std::uint16_t size = 1; size <= 16; ++size) {
    const Link each = fill(std::string_view(text).substr(0, size), 1);
    const auto& to = *world.space().cell<KeyRecord>(each);
    EXPECT_TRUE(shm::same_key(to, KeyView(text.data(), size, size))) << size;
    for (std::uint16_t i = 0; i < size; ++i) {
      std::string other = text;
      other[i] = '!';
      EXPECT_FALSE(shm::same_key(to, KeyView(other.data(), size, size))) << size << " " << i;
    }
  }
}

TEST_F(ShmIndex, CollidingKeysAreToldApart) {
  constexpr std::uint64_t kHash = 0x1234567;
  std::vector<Link> links;
  for (int i = 0; i < 50; ++i) {
    links.push_back(fill("k" + std::to_string(i), shm::key_sort(kHash)));
    journal.begin(shm::kNoVersion);
    index.insert(links.back());
    journal.end();
  }
  journal.begin(shm::kNoVersion);
  for (std::size_t i = 0; i < 50; i += 3) index.remove(links[i]);
  journal.end();
  for (std::size_t i = 0; i < 50; ++i) {
    const std::string text = "k" + std::to_string(i);
    const std::uint32_t wanted = i % 3 == 0 ? 0 : links[i].unit();
    EXPECT_EQ(index.find(kNode, key(text), kHash), wanted) << i;
    EXPECT_EQ(shm::find_key(world.space(), kNode, key(text), kHash).record != nullptr,
              wanted != 0);
  }
  EXPECT_EQ(walk(), 33u);
}

TEST_F(ShmIndex, BucketsAreSetUpBehindTheirAncestors) {
  // More keys than buckets, then a split: keys of the new half are found from the old one.
  for (int i = 0; i < 200; ++i) insert("a" + std::to_string(i));
  EXPECT_EQ(header.bucket_bits.load(), shm::kFirstBucketBits);
  EXPECT_TRUE(shm::Index::wants_growth(header, 200));
  grow(200);
  EXPECT_EQ(header.bucket_bits.load(), shm::kFirstBucketBits + 1);
  for (int i = 0; i < 200; ++i) EXPECT_NE(find("a" + std::to_string(i)), 0u);
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(seen("a" + std::to_string(i)));
  for (int i = 0; i < 200; ++i) insert("b" + std::to_string(i));
  EXPECT_EQ(walk(), 400u);
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(seen("a" + std::to_string(i)));
}

TEST_F(ShmIndex, BucketsDoNotGrowBeyondTheirSegments) {
  journal.begin(shm::kNoVersion);
  index.double_buckets(1'000'000);
  journal.end();
  EXPECT_EQ(1u << header.bucket_bits.load(), shm::kBucketsPerSegment);
}

TEST_F(ShmIndex, AnUndoneInsertLeavesNoTrace) {
  for (int i = 0; i < 20; ++i) insert("a" + std::to_string(i));
  const Link link = fill("new", shm::key_sort(hash("new")));
  const Link known(world.space().cell<KeyRecord>(Link(1, find("a3")))->cell.generation.load(),
                   find("a3"));
  journal.begin(shm::kNoVersion);
  index.insert(link);
  index.remove(known);
  journal.undo();
  EXPECT_EQ(find("new"), 0u);
  EXPECT_TRUE(seen("a3"));
  EXPECT_EQ(header.key_count.load(), 20u);
  EXPECT_EQ(walk(), 20u);
}

TEST_F(ShmIndex, GrowsToManyKeys) {
  constexpr int kKeys = 100'000;
  std::vector<Link> links;
  for (int i = 0; i < kKeys; ++i) {
    if (i % 5000 == 0) grow(static_cast<std::uint64_t>(i) + 5000);
    links.push_back(insert(std::to_string(i)));
  }
  EXPECT_GE(header.bucket_bits.load(), 15u);
  int wrong = 0;
  for (int i = 0; i < kKeys; ++i) wrong += seen(std::to_string(i)) ? 0 : 1;
  EXPECT_EQ(wrong, 0);
  for (int i = 0; i < kKeys; i += 2) remove(links[static_cast<std::size_t>(i)]);
  for (int i = 0; i < kKeys; ++i) wrong += (find(std::to_string(i)) != 0) == (i % 2 == 1) ? 0 : 1;
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(walk(), static_cast<std::size_t>(kKeys) / 2);
  EXPECT_EQ(header.key_count.load(), static_cast<std::uint64_t>(kKeys) / 2);
}

TEST_F(ShmIndex, ACellOfAnotherGenerationIsNotBelieved) {
  const Link link = insert("a");
  auto& record = *world.space().writable_cell<KeyRecord>(link.unit());
  // As if it were being refilled at this very moment: neither found nor absent.
  record.cell.generation.store(link.generation() + 1);
  const shm::FoundKey found = shm::find_key(world.space(), kNode, key("a"), hash("a"));
  EXPECT_EQ(found.record, nullptr);
  EXPECT_TRUE(found.unsettled);
  record.cell.generation.store(link.generation());
  EXPECT_TRUE(seen("a"));
}

TEST_F(ShmIndex, AKeyPresentThroughoutIsAlwaysFound) {
  constexpr int kSteady = 300, kMoving = 300, kRounds = 60;
  std::vector<std::string> steady, moving;
  std::vector<Link> links;
  for (int i = 0; i < kSteady; ++i) steady.push_back("s" + std::to_string(i));
  for (int i = 0; i < kMoving; ++i) moving.push_back("m" + std::to_string(i));
  for (const std::string& text : steady) insert(text);
  std::atomic<bool> done{false};
  std::atomic<int> missed{0}, laps{0};
  std::thread reader([&] {
    while (!done.load()) {
      for (const std::string& text : steady) missed += seen(text) ? 0 : 1;
      ++laps;
    }
  });
  // Cells change their keys: whoever stands on one is thrown back by its generation.
  for (const std::string& text : moving) links.push_back(insert(text));
  for (int round = 1; round <= kRounds || laps.load() < 3; ++round) {
    for (std::size_t i = 0; i < links.size(); ++i) {
      remove(links[i]);
      links[i] = insert(moving[i] + "-" + std::to_string(round % 100), links[i].unit());
    }
    grow(std::min<std::uint64_t>(static_cast<std::uint64_t>(round) * 200, 8000));
  }
  done = true;
  reader.join();
  EXPECT_EQ(missed.load(), 0) << "in " << laps.load() << " laps";
  EXPECT_EQ(walk(), static_cast<std::size_t>(kSteady + kMoving));
}

}  // namespace
}  // namespace theus::testing
