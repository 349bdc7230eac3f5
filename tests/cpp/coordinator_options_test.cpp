#include "coordinator/options.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace theus::coordinator {
namespace {

CommandLine parse(const std::vector<const char*>& words) { return parse_command_line(words); }

std::string complaint(const std::vector<const char*>& words) {
  try {
    parse(words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

TEST(CoordinatorOptions, TakesANameAndDefaults) {
  const CommandLine line = parse({"shop"});
  EXPECT_FALSE(line.print);
  EXPECT_EQ(line.options.name, "shop");
  EXPECT_EQ(line.options.capacity_bytes, 2ull << 30);
  EXPECT_FALSE(line.options.embedded);
  EXPECT_EQ(line.options.pool.keep_bytes, 64ull << 20);
  EXPECT_EQ(line.options.pool.window_ns, 10'000'000'000u);
  EXPECT_EQ(line.options.log_path, "-");
  EXPECT_EQ(line.options.starter_fd, -1);
}

TEST(CoordinatorOptions, TakesValuesInBothForms) {
  const CommandLine line = parse({"--capacity=64MiB", "--embedded", "--log", "/tmp/x",
                                  "--log-level=debug", "--arbitration", "cooperative", "--",
                                  "-odd"});
  EXPECT_EQ(line.options.name, "-odd");
  EXPECT_EQ(line.options.capacity_bytes, 64ull << 20);
  EXPECT_TRUE(line.options.embedded);
  EXPECT_EQ(line.options.log_path, "/tmp/x");
  EXPECT_EQ(line.options.log_level, "debug");
}

TEST(CoordinatorOptions, TakesThePool) {
  const CommandLine line = parse({"--pool", "0", "--pool-seconds=3600", "shop"});
  EXPECT_EQ(line.options.pool.keep_bytes, 0u);
  EXPECT_EQ(line.options.pool.window_ns, 3'600'000'000'000u);
  for (const char* bad : {"0", "86401", "ten", "1.5", "-1", ""}) {
    EXPECT_NE(complaint({"--pool-seconds", bad, "shop"}), "") << bad;
  }
  EXPECT_NE(complaint({"--pool", "65GiB", "shop"}), "");
}

TEST(CoordinatorOptions, ReadsSizes) {
  EXPECT_EQ(parse_capacity("2GiB"), 2ull << 30);
  EXPECT_EQ(parse_capacity("2 GiB"), 2ull << 30);
  EXPECT_EQ(parse_capacity("512m"), 512ull << 20);
  EXPECT_EQ(parse_capacity("16777216"), 16ull << 20);
  EXPECT_EQ(parse_capacity("32768KB"), 32ull << 20);
  EXPECT_EQ(parse_capacity("64G"), 64ull << 30);
  for (const char* bad : {"", "GiB", "-1", "2 GiBs", "1.5GiB", "15MiB", "65GiB", "1T",
                          "99999999999999999999", "18446744073709551615T"}) {
    EXPECT_THROW(parse_capacity(bad), UsageError) << bad;
  }
}

TEST(CoordinatorOptions, SaysWhatIsWrong) {
  EXPECT_NE(complaint({}).find("a name is needed"), std::string::npos);
  EXPECT_NE(complaint({"a", "b"}).find("more than one name"), std::string::npos);
  EXPECT_NE(complaint({"--nosuch", "a"}).find("--nosuch"), std::string::npos);
  EXPECT_NE(complaint({"a", "--capacity"}).find("needs a value"), std::string::npos);
  EXPECT_NE(complaint({"--log-level", "loud", "a"}).find("loud"), std::string::npos);
  EXPECT_NE(complaint({"--arbitration", "isolated", "a"}).find("not available yet"),
            std::string::npos);
  EXPECT_NE(complaint({"--starter-fd", "1", "a"}).find("--starter-fd"), std::string::npos);
}

TEST(CoordinatorOptions, PrintsHelpAndVersion) {
  EXPECT_NE(parse({"--help"}).print->find("--capacity"), std::string::npos);
  EXPECT_NE(parse({"--version"}).print->find("theus-coordinator "), std::string::npos);
  EXPECT_EQ(parse({"--version"}).print->find("unknown"), std::string::npos);
}

TEST(CoordinatorOptions, FindsTheStarterOnAWrongCommandLine) {
  const std::vector<const char*> words = {"--nosuch", "--starter-fd", "3"};
  EXPECT_EQ(find_starter_fd(words), 3);
  const std::vector<const char*> none = {"--starter-fd"};
  EXPECT_EQ(find_starter_fd(none), -1);
}

}  // namespace
}  // namespace theus::coordinator
