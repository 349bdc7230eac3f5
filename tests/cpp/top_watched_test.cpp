#include "tools/top/watched.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "tests/cpp/coordinator_harness.h"

namespace theus::top {
namespace {

using testing::kSecondNs;

class TopWatched : public testing::CoordinatorTest {};

TEST_F(TopWatched, NamesThoseThatRun) {
  EXPECT_TRUE(running_names().empty());
  start("mall");
  start("bank");
  // A leftover: a name that nobody listens at.
  const int file = creat((directory_ + "/ruin.sock").c_str(), 0600);
  ASSERT_GE(file, 0);
  close(file);
  EXPECT_EQ(running_names(), (std::vector<std::string>{"bank", "mall"}));
}

TEST_F(TopWatched, SaysThatNoneRuns) {
  EXPECT_THROW(Watched("shop", kSecondNs), NotFound);
  EXPECT_THROW(Watched("no/name", kSecondNs), CannotWatch);
}

TEST_F(TopWatched, SeesWorkersAndTheEnd) {
  start("shop");
  Watched watched("shop", kSecondNs);
  EXPECT_TRUE(watched.look().workers.empty());
  const auto peer = testing::attached_worker("shop");
  peer->line().say('c');
  ASSERT_EQ(peer->line().hear(), 'c');
  const Picture picture = watched.look();
  EXPECT_EQ(picture.name, "shop");
  EXPECT_FALSE(picture.restarting);
  ASSERT_EQ(picture.workers.size(), 1u);
  EXPECT_EQ(picture.workers[0].sample.pid, static_cast<std::uint32_t>(peer->pid()));
  EXPECT_EQ(picture.workers[0].sample.commits, 1u);
  EXPECT_FALSE(watched.ended());
  worker::stop_coordinator("shop", 20);
  EXPECT_TRUE(watched.ended());
  EXPECT_EQ(watched.look().sample.clock, 1u);  // the worker has the state, and so do we
}

TEST_F(TopWatched, ARestartIsNotTheEnd) {
  const worker::Started started = start("shop");
  Watched watched("shop", kSecondNs);
  const std::uint32_t before = watched.look().sample.coordinator_pid;
  ASSERT_EQ(before, started.pid);
  ASSERT_EQ(kill(static_cast<pid_t>(before), SIGKILL), 0);
  EXPECT_TRUE(testing::eventually([&] {
    EXPECT_FALSE(watched.ended());
    const Picture picture = watched.look();
    return picture.sample.coordinator_pid != before && !picture.restarting;
  }));
}

}  // namespace
}  // namespace theus::top
