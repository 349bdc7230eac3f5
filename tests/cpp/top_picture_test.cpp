#include "tools/top/picture.h"

#include <gtest/gtest.h>

#include "tools/top/format.h"
#include "tools/top/json.h"
#include "tools/top/text.h"

namespace theus::top {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

WorkerSample worker(std::uint32_t slot, std::uint64_t commits, std::uint64_t conflicts = 0) {
  WorkerSample sample;
  sample.slot = slot;
  sample.admission = slot + 100;
  sample.pid = slot + 4000;
  sample.commits = commits;
  sample.conflicts = conflicts;
  return sample;
}

Sample sample(std::uint64_t at_ns, std::uint64_t clock, std::vector<WorkerSample> workers) {
  Sample result;
  result.taken_ns = at_ns;
  result.clock = clock;
  result.workers = std::move(workers);
  return result;
}

TEST(TopRates, OfNothingAreZero) {
  EXPECT_EQ(rate(10, 4, 2.0), 3.0);
  EXPECT_EQ(rate(4, 10, 2.0), 0);  // a counter that went back
  EXPECT_EQ(rate(10, 4, 0), 0);
  EXPECT_EQ(rate(10, 4, -1), 0);
  EXPECT_FALSE(share(0, 0));
  EXPECT_EQ(*share(1, 3), 0.25);
  EXPECT_EQ(*share(5, 0), 1.0);
}

TEST(TopPicture, TheFirstHasNoRates) {
  Observation observation;
  const Picture picture = observation.see(sample(kSecond, 1000, {worker(0, 1000, 5)}), kSecond);
  EXPECT_EQ(picture.interval_s, 0);
  EXPECT_EQ(picture.commits_per_s, 0);
  EXPECT_EQ(picture.workers.at(0).commits_per_s, 0);
  EXPECT_FALSE(picture.conflict_share);
}

TEST(TopPicture, RatesAreOverTheTimeBetweenSamples) {
  Observation observation;
  observation.see(sample(kSecond, 1000, {worker(0, 600, 10), worker(3, 400)}), 0);
  const Picture picture =
      observation.see(sample(3 * kSecond, 1400, {worker(0, 800, 110), worker(3, 600)}), 0);
  EXPECT_EQ(picture.interval_s, 2.0);
  EXPECT_EQ(picture.commits_per_s, 200);
  EXPECT_EQ(picture.conflicts_per_s, 50);
  EXPECT_EQ(*picture.conflict_share, 0.2);
  EXPECT_EQ(picture.workers.at(0).commits_per_s, 100);
  EXPECT_EQ(*picture.workers.at(0).conflict_share, 100.0 / 300);
  EXPECT_EQ(*picture.workers.at(1).conflict_share, 0);
}

TEST(TopPicture, CommitsOfWorkersThatHaveLeftCount) {
  Observation observation;
  observation.see(sample(kSecond, 1000, {worker(0, 600)}), 0);
  const Picture picture = observation.see(sample(2 * kSecond, 1500, {}), 0);
  EXPECT_EQ(picture.commits_per_s, 500);
}

TEST(TopPicture, ANewTenantOfASlotStartsFromZero) {
  Observation observation;
  observation.see(sample(kSecond, 1000, {worker(0, 600)}), 0);
  WorkerSample next = worker(0, 50);
  next.admission = 7;
  const Picture picture = observation.see(sample(2 * kSecond, 1050, {next}), 0);
  EXPECT_EQ(picture.workers.at(0).commits_per_s, 50);
}

TEST(TopPicture, APinIsAsOldAsItHasBeenSeen) {
  Observation observation;
  WorkerSample pinning = worker(0, 0);
  pinning.oldest_pin = PinSample{3, 10, 0};
  observation.see(sample(kSecond, 100, {pinning}), 0);
  Picture picture = observation.see(sample(4 * kSecond, 150, {pinning}), 0);
  ASSERT_TRUE(picture.oldest_pin);
  EXPECT_EQ(picture.oldest_pin->seconds, 3.0);
  EXPECT_TRUE(picture.oldest_pin->at_least);
  EXPECT_EQ(picture.oldest_pin->versions_behind, 140u);
  // Another version at the same place is another pin; so is the same one of another tenant.
  pinning.oldest_pin->version = 150;
  picture = observation.see(sample(5 * kSecond, 150, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 0);
  picture = observation.see(sample(6 * kSecond, 150, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 1.0);
  pinning.admission = 9;
  picture = observation.see(sample(7 * kSecond, 150, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 0);
  // Gone and back: not seen all the time.
  WorkerSample without = pinning;
  without.oldest_pin.reset();
  picture = observation.see(sample(8 * kSecond, 150, {without}), 0);
  EXPECT_FALSE(picture.oldest_pin);
  picture = observation.see(sample(9 * kSecond, 150, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 0);
}

TEST(TopPicture, ARecordedTimeIsUsedUnlessItLiesAhead) {
  Observation observation;
  WorkerSample pinning = worker(0, 0);
  pinning.oldest_pin = PinSample{0, 10, 2 * kSecond};
  Picture picture = observation.see(sample(5 * kSecond, 100, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 3.0);
  EXPECT_FALSE(picture.oldest_pin->at_least);
  pinning.oldest_pin->taken_ns = 99 * kSecond;
  picture = observation.see(sample(6 * kSecond, 100, {pinning}), 0);
  EXPECT_EQ(picture.oldest_pin->seconds, 1.0);
  EXPECT_TRUE(picture.oldest_pin->at_least);
}

TEST(TopPicture, TheOldestPinOfAllIsNamed) {
  Observation observation;
  WorkerSample young = worker(0, 0);
  young.oldest_pin = PinSample{0, 90, 0};
  WorkerSample old = worker(5, 0);
  old.oldest_pin = PinSample{0, 20, 0};
  const Picture picture = observation.see(sample(kSecond, 100, {young, old}), 0);
  EXPECT_EQ(picture.oldest_pin->slot, 5u);
  EXPECT_EQ(picture.oldest_pin->pid, 4005u);
}

TEST(TopPicture, WildNumbersDoNoHarm) {
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  Observation observation;
  WorkerSample wild = worker(0, kMost, kMost);
  wild.oldest_pin = PinSample{0, kMost, kMost};
  Sample one = sample(kSecond, 5, {wild});
  one.created_at_ns = kMost;
  one.keys = kMost;
  observation.see(one, 7);
  one.taken_ns = 0;  // time that runs backwards
  const Picture picture = observation.see(one, 7);
  EXPECT_EQ(picture.uptime_s, 0);
  EXPECT_EQ(picture.oldest_pin->versions_behind, 0u);
  EXPECT_FALSE(lay_out(picture, 80, 24).lines.empty());
  EXPECT_FALSE(to_json(picture, 0).empty());
}

Picture of_workers(std::uint32_t count) {
  std::vector<WorkerSample> workers;
  for (std::uint32_t i = 0; i < count; ++i) workers.push_back(worker(i, i));
  Observation observation;
  Picture picture = observation.see(sample(kSecond, 1, workers), 0);
  picture.name = "shop";
  return picture;
}

TEST(TopText, FitsTheTerminal) {
  const Picture picture = of_workers(30);
  for (const std::size_t width : {1u, 10u, 40u, 80u, 200u}) {
    for (const std::size_t height : {1u, 3u, 8u, 24u, 100u}) {
      const Page page = lay_out(picture, width, height);
      EXPECT_LE(page.lines.size(), height);
      for (const std::string& line : page.lines) EXPECT_LE(columns(line), width);
    }
  }
}

TEST(TopText, SaysHowManyWorkersAreNotShown) {
  const std::size_t head = lay_out(of_workers(0), 0, 0).lines.size();
  EXPECT_EQ(lay_out(of_workers(30), 0, 0).lines.size(), head + 30);
  const Page cut_off = lay_out(of_workers(30), 0, head + 10);
  EXPECT_EQ(cut_off.lines.size(), head + 10);
  EXPECT_NE(cut_off.lines.back().find("21 more"), std::string::npos) << cut_off.lines.back();
  const Page exact = lay_out(of_workers(10), 0, head + 10);
  EXPECT_EQ(exact.lines.back().find("more"), std::string::npos) << exact.lines.back();
}

TEST(TopText, ColumnsStandUnderTheirNames) {
  Picture picture = of_workers(1);
  picture.workers[0].state = "sleep";
  picture.workers[0].sample.label = "import";
  const Page page = lay_out(picture, 0, 0);
  const std::string& names = page.lines.at(page.head);
  const std::string& row = page.lines.at(page.head + 1);
  EXPECT_EQ(names.find("STATE"), row.find("sleep"));
  EXPECT_EQ(names.find("LABEL"), row.find("import"));
  EXPECT_EQ(names.find("PID") + 3, row.find("4000") + 4);
}

TEST(TopJson, HasTheDocumentedFields) {
  Observation observation;
  WorkerSample one = worker(0, 10, 5);
  one.label = "say \"hi\" \\";
  one.oldest_pin = PinSample{0, 90, 0};
  observation.see(sample(kSecond, 90, {worker(0, 0)}), 0);
  Picture picture = observation.see(sample(2 * kSecond, 100, {one}), 0);
  picture.name = "shop";
  picture.workers[0].state = "run";
  EXPECT_EQ(
      to_json(picture, 12.5),
      "{\"name\":\"shop\",\"time_unix_ms\":12500,\"interval_s\":1,\"uptime_s\":0,"
      "\"coordinator_pid\":0,\"supervisor_pid\":0,\"restarting\":false,\"clock\":100,"
      "\"commits_per_s\":10,\"conflicts_per_s\":5,\"conflict_share\":0.333333,"
      "\"read_only_per_s\":0,\"capacity_bytes\":0,\"used_bytes\":0,\"free_bytes\":0,"
      "\"backed_bytes\":0,\"keys\":0,\"retained_keys\":0,\"dead_nodes\":0,\"lock_repairs\":0,"
      "\"oldest_pin\":{\"slot\":0,\"pid\":4000,\"version\":90,\"versions_behind\":10,"
      "\"age_s\":0,\"age_is_lower_bound\":true},"
      "\"workers\":[{\"slot\":0,\"pid\":4000,\"state\":\"run\",\"label\":\"say \\\"hi\\\" \\\\\","
      "\"commits\":10,\"conflicts\":5,\"read_only\":0,\"rollbacks\":0,\"commits_per_s\":10,"
      "\"conflicts_per_s\":5,\"conflict_share\":0.333333,\"read_only_per_s\":0,"
      "\"rollbacks_per_s\":0,\"combined_per_s\":0,\"lock_waits_per_s\":0,\"pins\":0,\"views\":0,"
      "\"oldest_pin\":{\"slot\":0,\"pid\":4000,\"version\":90,\"versions_behind\":10,"
      "\"age_s\":0,\"age_is_lower_bound\":true}}]}");
}

TEST(TopJson, NothingIsNull) {
  Observation observation;
  const std::string text = to_json(observation.see(sample(kSecond, 1, {}), 0), 0);
  EXPECT_NE(text.find("\"conflict_share\":null"), std::string::npos) << text;
  EXPECT_NE(text.find("\"oldest_pin\":null,\"workers\":[]}"), std::string::npos) << text;
}

}  // namespace
}  // namespace theus::top
