// Links: what a raw value means, and generations that never make a link null or a marker.
#include <gtest/gtest.h>

#include "shm/link.h"

namespace theus::testing {
namespace {

using shm::Link;

TEST(ShmLink, CarriesGenerationAndUnit) {
  const Link link(7, 0xFFFFFFF0u);
  EXPECT_EQ(link.generation(), 7u);
  EXPECT_EQ(link.unit(), 0xFFFFFFF0u);
  EXPECT_EQ(link.offset(), 0xFFFFFFF0ull * shm::kUnitBytes);
  EXPECT_EQ(Link(link.raw), link);
  EXPECT_TRUE(link);
  EXPECT_FALSE(link.is_marker());
}

TEST(ShmLink, NullIsNothingElse) {
  EXPECT_FALSE(Link());
  EXPECT_TRUE(Link(1, 0));
  EXPECT_TRUE(Link(0, 1));
}

TEST(ShmLink, MarkersNameBuckets) {
  const Link marker = Link::marker(12);
  EXPECT_TRUE(marker.is_marker());
  EXPECT_EQ(marker.unit(), 12u);
  EXPECT_FALSE(marker == Link(1, 12));
}

TEST(ShmLink, GenerationsSkipZeroAndTheMarkers) {
  EXPECT_EQ(shm::next_generation(0), 1u);
  EXPECT_EQ(shm::next_generation(1), 2u);
  EXPECT_EQ(shm::next_generation(shm::kMarkerGeneration - 1), 1u);
  EXPECT_EQ(shm::next_generation(shm::kMarkerGeneration), 1u);
}

}  // namespace
}  // namespace theus::testing
