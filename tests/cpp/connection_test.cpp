#include "worker/connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "shm/control_channel.h"
#include "shm/process.h"
#include "tests/cpp/coordinator_harness.h"

namespace theus::testing {
namespace {

using worker::CoordinatorNotFound;
using worker::Error;

class Connection : public CoordinatorTest {};

template <class Work>
std::string message_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST_F(Connection, PutsTheSocketIntoAPrivateDirectory) {
  EXPECT_EQ(worker::socket_path("shop"), directory_ + "/shop.sock");
  struct stat status {};
  ASSERT_EQ(::stat(directory_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST_F(Connection, FallsBackWithoutARuntimeDirectory) {
  ::setenv("XDG_RUNTIME_DIR", (base_ + "/absent").c_str(), 1);
  EXPECT_EQ(worker::socket_path("shop"),
            "/tmp/theus-" + std::to_string(::geteuid()) + "/shop.sock");
}

TEST_F(Connection, RefusesADirectoryThatIsOpenToOthers) {
  worker::socket_path("shop");
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  EXPECT_NE(message_of([] { worker::socket_path("shop"); }).find("open to other users"),
            std::string::npos);
}

TEST_F(Connection, RefusesALinkInPlaceOfTheDirectory) {
  std::filesystem::create_directory(base_ + "/elsewhere");
  std::filesystem::create_symlink(base_ + "/elsewhere", directory_);
  EXPECT_THROW(worker::socket_path("shop"), Error);
}

TEST_F(Connection, RefusesADirectoryOfSomebodyElse) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can give a directory away";
  }
  worker::socket_path("shop");
  ASSERT_EQ(::chown(directory_.c_str(), 65534, 65534), 0);
  EXPECT_NE(message_of([] { worker::socket_path("shop"); }).find("belongs to user 65534"),
            std::string::npos);
}

TEST_F(Connection, RefusesNamesThatAreNoFileNames) {
  for (const std::string& name : {std::string(), std::string("a/b"), std::string("."),
                                  std::string(".."), std::string(".hidden"), std::string("a\nb"),
                                  std::string("a\0b", 3), std::string(65, 'n')}) {
    EXPECT_THROW(worker::attach(name), Error) << name;
  }
  EXPECT_THROW(worker::attach(std::string(64, 'n')), CoordinatorNotFound);
}

TEST_F(Connection, SaysWhenThereIsNoCoordinator) {
  EXPECT_THROW(worker::attach("nobody"), CoordinatorNotFound);
  EXPECT_THROW(worker::stop_coordinator("nobody", 1), CoordinatorNotFound);
}

TEST_F(Connection, SaysSoWhenOnlyASocketFileIsLeft) {
  const auto started = start("shop", false);
  const shm::OwnedFd child = pidfd_of(started.pid);
  ::kill(static_cast<pid_t>(started.supervisor_pid), SIGKILL);
  ASSERT_TRUE(ends(started.supervisor_pid));
  ASSERT_TRUE(shm::send_signal(child.get(), SIGKILL));
  ASSERT_TRUE(ends(child.get()));
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/shop.sock"));
  EXPECT_THROW(worker::attach("shop"), CoordinatorNotFound);
  start("shop");
  worker::Attachment attachment = worker::attach("shop");
  const shm::OwnedFd control(attachment.control_fd);
}

TEST_F(Connection, AttachesThroughADirectoryWithALongName) {
  const std::string deep = base_ + "/" + std::string(120, 'd');
  std::filesystem::create_directory(deep);
  ::setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);
  const std::string name(64, 'n');
  start(name);
  const worker::Attachment attachment = worker::attach(name);
  const shm::OwnedFd control(attachment.control_fd);
  EXPECT_TRUE(std::filesystem::exists(deep + "/theus/" + name + ".sock"));
}

TEST_F(Connection, StartsAndStops) {
  const auto started = start("shop", false);
  EXPECT_EQ(started.lifeline_fd, -1);
  EXPECT_EQ(started.name, "shop");
  const shm::OwnedFd child = pidfd_of(started.pid);
  const shm::OwnedFd supervisor = pidfd_of(started.supervisor_pid);
  const worker::Attachment attachment = worker::attach("shop");
  const shm::OwnedFd control(attachment.control_fd);
  EXPECT_EQ(attachment.coordinator_pid, started.pid);
  EXPECT_EQ(attachment.supervisor_pid, started.supervisor_pid);
  EXPECT_FALSE(worker::coordinator_gone(control.get()));
  worker::stop_coordinator("shop", 10);
  EXPECT_TRUE(worker::coordinator_gone(control.get()));
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
  EXPECT_THROW(worker::attach("shop"), CoordinatorNotFound);
}

TEST_F(Connection, ReturnsTheOneThatRuns) {
  const auto first = start("shop");
  const auto second = worker::start_coordinator(options("shop"));
  EXPECT_EQ(second.pid, first.pid);
  EXPECT_EQ(second.supervisor_pid, first.supervisor_pid);
  EXPECT_EQ(second.lifeline_fd, -1);
}

TEST_F(Connection, MakesUpANameThatIsItsOwn) {
  const auto first = start("");
  const auto second = start("");
  EXPECT_NE(first.name, second.name);
  EXPECT_NE(first.pid, second.pid);
}

TEST_F(Connection, ARaceOfStartsHasOneWinner) {
  constexpr int kRounds = 5;
  constexpr int kStarters = 6;
  for (int round = 0; round < kRounds; ++round) {
    const std::string name = "race" + std::to_string(round);
    std::vector<worker::Started> all(kStarters);
    std::vector<std::string> problems(kStarters);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kStarters; ++i) {
      threads.emplace_back([&, i] {
        try {
          all[i] = worker::start_coordinator(options(name));
        } catch (const std::exception& error) {
          problems[i] = error.what();
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    std::set<std::uint32_t> pids;
    for (std::size_t i = 0; i < kStarters; ++i) {
      EXPECT_EQ(problems[i], "");
      pids.insert(all[i].pid);
      if (all[i].lifeline_fd >= 0) {
        lifelines_.emplace_back(all[i].lifeline_fd);
      }
    }
    EXPECT_EQ(pids.size(), 1u);
  }
}

TEST_F(Connection, SaysWhyOneCouldNotStart) {
  worker::StartOptions bad = options("shop");
  bad.executable = "/nonexistent/theus-coordinator";
  EXPECT_NE(message_of([&] { worker::start_coordinator(bad); }).find("No such file"),
            std::string::npos);
  bad = options("shop");
  bad.executable = "/bin/false";
  EXPECT_NE(message_of([&] { worker::start_coordinator(bad); }).find("ended before it was ready"),
            std::string::npos);
  bad = options("shop");
  bad.capacity_bytes = 1;
  EXPECT_NE(message_of([&] { worker::start_coordinator(bad); }).find("16MiB"), std::string::npos);
  bad = options("shop");
  bad.log_path = "/dev/null/log";
  EXPECT_NE(message_of([&] { worker::start_coordinator(bad); }).find("/dev/null/log"),
            std::string::npos);
}

TEST_F(Connection, LeavesNoZombieAndNoDescriptor) {
  const std::size_t before = open_descriptors();
  const auto started = start("shop");
  EXPECT_EQ(open_descriptors(), before + 1) << "the lifeline";
  // As subreaper we get the supervisor, but nothing has ended.
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), 0);
  EXPECT_GT(started.pid, 0u);
}

TEST_F(Connection, TheCoordinatorInheritsNothing) {
  // An inherited pipe would make whoever reads its other end wait for ever.
  int ends_of_pipe[2];
  ASSERT_EQ(::pipe(ends_of_pipe), 0);  // not CLOEXEC
  const shm::OwnedFd reading(ends_of_pipe[0]);
  shm::OwnedFd writing(ends_of_pipe[1]);
  start("shop");
  writing.reset();
  EXPECT_TRUE(becomes_readable(reading.get()));
  char byte = 0;
  EXPECT_EQ(::read(reading.get(), &byte, 1), 0);
}

TEST_F(Connection, TheCoordinatorHasASessionOfItsOwn) {
  const auto started = start("shop");
  EXPECT_NE(::getsid(static_cast<pid_t>(started.pid)), ::getsid(0));
  EXPECT_EQ(::getsid(static_cast<pid_t>(started.pid)),
            ::getsid(static_cast<pid_t>(started.supervisor_pid)));
}

TEST_F(Connection, ReportsToAGoneCoordinatorDoNoHarm) {
  start("shop");
  const worker::Attachment attachment = worker::attach("shop");
  const shm::OwnedFd control(attachment.control_fd);
  EXPECT_TRUE(worker::report_stuck(attachment, 1));
  worker::stop_coordinator("shop", 10);
  EXPECT_FALSE(worker::report_stuck(attachment, 1));
  EXPECT_FALSE(worker::announce_detach(control.get()));
}

}  // namespace
}  // namespace theus::testing
