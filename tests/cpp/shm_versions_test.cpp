// Chains of versions as a reader sees them.
#include <gtest/gtest.h>

#include <vector>

#include "shm/extents.h"
#include "shm/versions.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::Link;
using shm::Seen;
using shm::SeenPlace;
using shm::SeenRecord;
using shm::VersionRecord;

class ShmVersions : public ::testing::Test {
 protected:
  // Extents nobody uses hold the cells of these tests.
  std::uint32_t unit(std::uint32_t n) {
    return static_cast<std::uint32_t>(
        (world.space().header().extents_offset.load() + 4 * shm::kExtentBytes + n * 256) /
        shm::kUnitBytes);
  }
  VersionRecord& record(Link link) {
    return *world.space().writable_cell<VersionRecord>(link.unit());
  }
  Link make(std::uint64_t version, std::uint64_t died_at, Link prev) {
    const Link link(11, unit(made_++));
    VersionRecord& to = record(link);
    to.cell.generation.store(link.generation());
    to.version.store(version);
    to.died_at.store(died_at);
    to.prev.store(prev.raw);
    to.value[0].store(version * 100);
    to.shape.store(shm::RecordShape{3, shm::ValueKind::kInt, 8}.pack());
    return link;
  }
  Seen at(Link head, std::uint64_t version) {
    return shm::visible_at(world.space(), head, version, &seen);
  }

  World world{shm::kMinCapacityBytes};
  SeenRecord seen;
  std::uint32_t made_ = 0;
};

TEST_F(ShmVersions, ShapesSurvivePacking) {
  const auto shape =
      shm::RecordShape::unpack(shm::RecordShape{0xFFFF, shm::ValueKind::kBytesBlock, 24}.pack());
  EXPECT_EQ(shape.place, 0xFFFFu);
  EXPECT_EQ(shape.kind, shm::ValueKind::kBytesBlock);
  EXPECT_EQ(shape.length, 24u);
  const auto chunk = shm::ChunkShape::unpack(shm::ChunkShape{29, 28, 27}.pack());
  EXPECT_EQ(chunk.capacity, 29u);
  EXPECT_EQ(chunk.used, 28u);
  EXPECT_EQ(chunk.live, 27u);
}

TEST_F(ShmVersions, ChunksAreFoundBackwardsAsLongAsTheyAreLinked) {
  const auto chunk_at = [&](std::uint32_t n) -> shm::OrderChunk& {
    return *world.space().writable_cell<shm::OrderChunk>(unit(n));
  };
  for (const std::uint32_t n : {0u, 1u}) {
    chunk_at(n).cell.generation.store(20 + n);
    chunk_at(n).cell.state.store(shm::kCellLinked);
    chunk_at(n).prev.store(n == 0 ? 0 : unit(0));
  }
  shm::NodeRecord& node = *world.space().writable_cell<shm::NodeRecord>(unit(2));
  Link found;
  node.last_chunk.store(0);
  EXPECT_TRUE(shm::last_chunk(world.space(), node, &found) && !found);
  node.last_chunk.store(unit(1));
  ASSERT_TRUE(shm::last_chunk(world.space(), node, &found));
  EXPECT_EQ(found, Link(21, unit(1)));
  ASSERT_TRUE(shm::chunk_before(world.space(), found, &found));
  EXPECT_EQ(found, Link(20, unit(0)));
  EXPECT_TRUE(shm::chunk_before(world.space(), found, &found) && !found);

  const Link last(21, unit(1));
  EXPECT_FALSE(shm::chunk_before(world.space(), Link(20, unit(1)), &found)) << "once another's";
  chunk_at(1).cell.state.store(shm::kNoCell);
  EXPECT_FALSE(shm::chunk_before(world.space(), last, &found)) << "has left the order";
  chunk_at(1).cell.state.store(shm::kCellLinked);
  chunk_at(1).prev.store(0xFFFFFFF0u);
  EXPECT_FALSE(shm::chunk_before(world.space(), last, &found)) << "outside";
  node.last_chunk.store(0xFFFFFFF0u);
  EXPECT_FALSE(shm::last_chunk(world.space(), node, &found)) << "outside";
}

TEST_F(ShmVersions, EachSnapshotSeesItsOwn) {
  // 3 to 6, replaced; 6 to 8, deleted; put again at 10 and there since.
  const Link first = make(3, 6, Link());
  const Link second = make(6, 8, first);
  const Link third = make(10, 0, second);
  const std::vector<std::uint64_t> wanted = {0, 0, 0, 3, 3, 3, 6, 6, 0, 0, 10, 10, 10};
  for (std::uint64_t version = 0; version < wanted.size(); ++version) {
    const Seen result = at(third, version);
    ASSERT_EQ(result, wanted[version] == 0 ? Seen::kAbsent : Seen::kVisible) << version;
    if (result == Seen::kVisible) {
      EXPECT_EQ(seen.version, wanted[version]);
      EXPECT_EQ(seen.value, wanted[version] * 100);
      EXPECT_EQ(seen.shape.place, 3u);
    }
  }
  EXPECT_EQ(shm::newest(world.space(), third, &seen), Seen::kVisible);
  EXPECT_EQ(seen.link, third);
}

TEST_F(ShmVersions, VersionZeroIsAsOldAsItsNode) {
  const Link link = make(0, 4, Link());
  EXPECT_EQ(at(link, 0), Seen::kVisible);
  EXPECT_EQ(at(link, 3), Seen::kVisible);
  EXPECT_EQ(at(link, 4), Seen::kAbsent);
}

TEST_F(ShmVersions, AnEmptyChainHoldsNothing) {
  EXPECT_EQ(at(Link(), 5), Seen::kAbsent);
  EXPECT_EQ(shm::newest(world.space(), Link(), &seen), Seen::kAbsent);
}

TEST_F(ShmVersions, AnotherGenerationMeansAgain) {
  const Link old = make(3, 6, Link());
  const Link head = make(6, 0, old);
  record(old).cell.generation.store(12);  // refilled
  EXPECT_EQ(at(head, 6), Seen::kVisible) << "its cell is untouched";
  EXPECT_EQ(at(head, 5), Seen::kAgain);
  record(head).cell.generation.store(12);
  EXPECT_EQ(at(head, 6), Seen::kAgain);
  EXPECT_EQ(shm::newest(world.space(), head, &seen), Seen::kAgain);
}

TEST_F(ShmVersions, LinksOutsideMeanAgain) {
  EXPECT_EQ(at(Link(11, 0xFFFFFFFFu), 5), Seen::kAgain);
  EXPECT_EQ(shm::newest(world.space(), Link(11, 0xFFFFFFFFu), &seen), Seen::kAgain);
  SeenPlace place;
  EXPECT_FALSE(shm::read_place(world.space(), Link(11, 0xFFFFFFFFu), 0, &place));
}

TEST_F(ShmVersions, PlacesOfAChunk) {
  const Link link(11, unit(40));
  auto& chunk = *world.space().writable_cell<shm::OrderChunk>(link.unit());
  chunk.cell.generation.store(11);
  chunk.next.store(Link(2, 7).raw);
  chunk.shape.store(shm::ChunkShape{5, 2, 2}.pack());
  chunk.place[0].store(Link(1, 100).raw);
  chunk.place[1].store(Link(1, 200).raw);
  chunk.place[2].store(Link(1, 300).raw);  // not in use yet
  SeenPlace place;
  ASSERT_TRUE(shm::read_place(world.space(), link, 1, &place));
  EXPECT_EQ(place.key, Link(1, 200));
  EXPECT_EQ(place.next_chunk, Link(2, 7));
  EXPECT_EQ(place.shape.used, 2u);
  ASSERT_TRUE(shm::read_place(world.space(), link, 2, &place));
  EXPECT_FALSE(place.key);
  ASSERT_TRUE(shm::read_place(world.space(), link, 1'000'000, &place));
  EXPECT_FALSE(place.key);
  chunk.cell.generation.store(12);
  EXPECT_FALSE(shm::read_place(world.space(), link, 0, &place));
}

}  // namespace
}  // namespace theus::testing
