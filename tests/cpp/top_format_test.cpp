#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tools/top/format.h"
#include "tools/top/options.h"

namespace theus::top {
namespace {

TEST(TopFormat, NumbersAreShort) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(-1), "0");
  EXPECT_EQ(short_number(std::numeric_limits<double>::quiet_NaN()), "0");
  EXPECT_EQ(short_number(0.05), "0.05");
  EXPECT_EQ(short_number(7.31), "7.3");
  EXPECT_EQ(short_number(9.96), "10");
  EXPECT_EQ(short_number(812), "812");
  EXPECT_EQ(short_number(999.4), "999");
  EXPECT_EQ(short_number(999.6), "1.00k");
  EXPECT_EQ(short_number(1470), "1.47k");
  EXPECT_EQ(short_number(999'499), "999k");
  EXPECT_EQ(short_number(999'500), "1.00M");
  EXPECT_EQ(short_number(1.234e6), "1.23M");
  for (double value = 0.001; value < 9e14; value *= 1.01) {
    EXPECT_LE(short_number(value).size(), 5u) << value;
  }
}

TEST(TopFormat, BytesAreShort) {
  EXPECT_EQ(short_bytes(0), "0 B");
  EXPECT_EQ(short_bytes(1023), "1023 B");
  EXPECT_EQ(short_bytes(1024), "1.00 KiB");
  EXPECT_EQ(short_bytes(65536), "64.0 KiB");
  EXPECT_EQ(short_bytes(2ull << 30), "2.00 GiB");
}

TEST(TopFormat, DurationsChangeTheirUnit) {
  EXPECT_EQ(short_seconds(-1), "0.0s");
  EXPECT_EQ(short_seconds(12.34), "12.3s");
  EXPECT_EQ(short_seconds(99.96), "1m39s");
  EXPECT_EQ(short_seconds(245), "4m05s");
  EXPECT_EQ(short_seconds(2 * 3600 + 13 * 60), "2h13m");
  EXPECT_EQ(short_seconds(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_FALSE(short_seconds(1e300).empty());
}

TEST(TopFormat, SharesAndDigitGroups) {
  EXPECT_EQ(percent(std::nullopt), "-");
  EXPECT_EQ(percent(0.0), "0.0%");
  EXPECT_EQ(percent(0.1234), "12.3%");
  EXPECT_EQ(percent(1.0), "100%");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(1234567), "1,234,567");
}

TEST(TopFormat, CuttingCountsCharacters) {
  EXPECT_EQ(cut("abc", 3), "abc");
  EXPECT_EQ(cut("abcd", 3), "ab~");
  EXPECT_EQ(cut("abcd", 0), "");
  EXPECT_EQ(cut("\u00e4\u00f6\u00fc!", 4), "\u00e4\u00f6\u00fc!");
  EXPECT_EQ(cut("\u00e4\u00f6\u00fc!", 3), "\u00e4\u00f6~");
  EXPECT_EQ(left("a", 3), "a  ");
  EXPECT_EQ(right("a", 3), "  a");
  EXPECT_EQ(right("abcd", 3), "ab~");
  EXPECT_EQ(columns(right("\u00e4", 3)), 3u);
}

Options parsed(std::vector<const char*> words) { return parse_options(words); }

TEST(TopOptions, AreTakenAsTheyCome) {
  EXPECT_EQ(parsed({}).name, "");
  EXPECT_FALSE(parsed({}).once);
  EXPECT_EQ(parsed({}).interval_s, 1.0);
  EXPECT_EQ(parsed({"shop", "--json"}).name, "shop");
  EXPECT_TRUE(parsed({"shop", "--json"}).json);
  EXPECT_EQ(parsed({"--interval", "2.5"}).interval_s, 2.5);
  EXPECT_EQ(parsed({"--interval=0.1"}).interval_s, 0.1);
  EXPECT_EQ(parsed({"--", "-odd-"}).name, "-odd-");
  EXPECT_TRUE(parsed({"-h"}).help);
}

TEST(TopOptions, OnceMeasuresForItsOwnInterval) {
  EXPECT_EQ(parsed({"--once"}).interval_s, kOnceInterval_s);
  EXPECT_EQ(parsed({"--once", "--interval", "3"}).interval_s, 3.0);
}

TEST(TopOptions, WhatMakesNoSenseIsSaid) {
  EXPECT_THROW(parsed({"--frob"}), UsageError);
  EXPECT_THROW(parsed({"a", "b"}), UsageError);
  EXPECT_THROW(parsed({""}), UsageError);
  EXPECT_THROW(parsed({"--interval"}), UsageError);
  for (const char* interval : {"0", "0.05", "-1", "nan", "inf", "4000", "1s", ""}) {
    EXPECT_THROW(parsed({"--interval", interval}), UsageError) << interval;
  }
}

}  // namespace
}  // namespace theus::top
