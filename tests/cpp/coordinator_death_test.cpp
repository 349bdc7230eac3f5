// What is left when a process dies: worker, coordinator, supervisor, starter.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "coordinator/suspicion.h"
#include "shm/control_channel.h"
#include "shm/hello.h"
#include "shm/process.h"
#include "tests/cpp/coordinator_harness.h"

namespace theus::testing {
namespace {

class CoordinatorDeath : public CoordinatorTest {
 protected:
  std::uint32_t now_serving(const std::string& name) { return observe(name).coordinator_pid; }

  // Ends the coordinator's child and waits until another serves. Returns that one's pid.
  std::uint32_t restart(std::uint32_t pid, const std::string& name) {
    ::kill(static_cast<pid_t>(pid), SIGKILL);
    EXPECT_TRUE(ends(pid));
    const std::uint32_t next = now_serving(name);
    EXPECT_NE(next, pid);
    return next;
  }
};

TEST_F(CoordinatorDeath, AWorkersDeathFreesItsSlot) {
  start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto first = attached_worker("shop");
  const auto second = attached_worker("shop");
  EXPECT_EQ(slots_in_use(space), 2u);
  first->kill_and_reap();
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  second->line().say('c');
  EXPECT_EQ(second->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, ARestartKeepsTheSlots) {
  const auto started = start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto first = attached_worker("shop");
  const auto second = attached_worker("shop");
  std::uint32_t pid = started.pid;
  constexpr int kRestarts = 8;  // more than are allowed to die of their own accord
  for (int i = 0; i < kRestarts; ++i) {
    pid = restart(pid, "shop");
    EXPECT_EQ(slots_in_use(space), 2u);
    EXPECT_EQ(space.header().coordinator_pid.load(), pid);
  }
  for (const auto& peer : {first.get(), second.get()}) {
    peer->line().say('c');
    EXPECT_EQ(peer->line().hear(), 'c');
  }
  EXPECT_EQ(space.header().clock.load(), 2u);
  first->kill_and_reap();
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  second->line().say('d');
  EXPECT_EQ(second->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
}

TEST_F(CoordinatorDeath, WorkersThatDieMeanwhileAreEvictedByTheNext) {
  const auto started = start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto staying = attached_worker("shop");
  const auto dying = attached_worker("shop");
  const auto leaving = attached_worker("shop");
  // Stopped, it sees neither.
  ::kill(static_cast<pid_t>(started.pid), SIGSTOP);
  dying->kill_and_reap();
  leaving->line().say('d');
  EXPECT_EQ(leaving->line().hear(), 'd');
  ::kill(static_cast<pid_t>(started.pid), SIGKILL);
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; })) << slots_in_use(space);
}

TEST_F(CoordinatorDeath, AdmissionsSurviveRestartsAndLeaveNoSlotBehind) {
  const auto started = start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  std::atomic<bool> done{false};
  std::atomic<std::uint32_t> attached{0};
  std::thread killer([&] {
    std::uint32_t pid = started.pid;
    constexpr int kKillsMax = 300;
    // Each is killed as soon as it serves, but one in so many only after it, or one of its
    // predecessors, has admitted somebody: an admission may take longer than the others live. (The
    // 64th descriptor of a process with two threads costs a grace period of the kernel's RCU.)
    constexpr int kKillsPerAdmission = 4;
    std::uint32_t known = 0;
    for (int i = 0; i < kKillsMax && !done.load(); ++i) {
      if (i % kKillsPerAdmission == 0 && i != 0) {
        eventually([&] { return done.load() || attached.load() != known; });
        known = attached.load();
      }
      ::kill(static_cast<pid_t>(pid), SIGKILL);
      eventually([&] {
        return done.load() || space.header().coordinator_pid.load() != pid;
      });
      pid = space.header().coordinator_pid.load();
    }
  });
  constexpr int kAttaches = 60;
  std::vector<worker::Attachment> attachments;
  std::vector<std::string> problems;
  for (int i = 0; i < kAttaches; ++i) {
    try {
      attachments.push_back(worker::attach("shop"));
      ++attached;
    } catch (const std::exception& error) {
      problems.emplace_back(error.what());
    }
  }
  done.store(true);
  killer.join();
  EXPECT_EQ(problems, std::vector<std::string>());
  std::set<std::uint32_t> slots;
  for (const worker::Attachment& attachment : attachments) {
    slots.insert(attachment.slot);
    EXPECT_FALSE(worker::coordinator_gone(attachment.control_fd));
  }
  EXPECT_EQ(slots.size(), attachments.size());
  // Abandoned tries of this very process announced that they were given up, or were never admitted.
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == attachments.size(); }))
      << slots_in_use(space);
  for (const worker::Attachment& attachment : attachments) {
    const shm::OwnedFd control(attachment.control_fd);
    worker::announce_detach(control.get());
  }
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; })) << slots_in_use(space);
}

TEST_F(CoordinatorDeath, AChildThatCannotServeIsNotReplacedForEver) {
  const auto started = start("shop", false);
  const auto peer = attached_worker("shop");
  const shm::OwnedFd supervisor = pidfd_of(started.supervisor_pid);
  std::uint32_t pid = started.pid;
  constexpr int kDeaths = 5;
  for (int i = 0; i < kDeaths; ++i) {
    ::kill(static_cast<pid_t>(pid), SIGSEGV);
    ASSERT_TRUE(ends(pid));
    if (i + 1 < kDeaths) {
      pid = now_serving("shop");
    }
  }
  EXPECT_TRUE(ends(supervisor.get()));
  EXPECT_NE(log_text().find("giving up"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CoordinatorDeath, WithoutItsSupervisorItServesOn) {
  const auto started = start("shop", false);
  const auto peer = attached_worker("shop");
  ::kill(static_cast<pid_t>(started.supervisor_pid), SIGKILL);
  ASSERT_TRUE(ends(started.supervisor_pid));
  const auto another = attached_worker("shop");
  const shm::Admission eye = observe("shop");
  EXPECT_EQ(eye.coordinator_pid, started.pid);
  EXPECT_TRUE(eventually([&] { return observe("shop").supervisor_pid == 0; }));
  const shm::Space space(eye.segments, shm::Access::kObserver);
  peer->kill_and_reap();
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  std::ifstream lock(directory_ + "/shop.lock");
  std::uint32_t owner = 0;
  lock >> owner;
  EXPECT_EQ(owner, started.pid);
  worker::stop_coordinator("shop", 10);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CoordinatorDeath, SigtermEndsItCleanly) {
  for (const bool at_supervisor : {true, false}) {
    const auto started = start("shop", false);
    const shm::OwnedFd child = pidfd_of(started.pid);
    const shm::OwnedFd supervisor = pidfd_of(started.supervisor_pid);
    const worker::Attachment attachment = worker::attach("shop");
    const shm::OwnedFd control(attachment.control_fd);
    shm::send_signal(at_supervisor ? supervisor.get() : child.get(), SIGTERM);
    EXPECT_TRUE(ends(child.get()));
    EXPECT_TRUE(ends(supervisor.get()));
    EXPECT_TRUE(worker::coordinator_gone(control.get()));
    EXPECT_TRUE(std::filesystem::is_empty(directory_));
    int status = -1;
    EXPECT_EQ(::waitpid(static_cast<pid_t>(started.supervisor_pid), &status, 0),
              static_cast<pid_t>(started.supervisor_pid));
    EXPECT_EQ(status, 0);
  }
}

TEST_F(CoordinatorDeath, ASecondOneIsRefusedNamingTheFirst) {
  const auto started = start("shop");
  Peer second([](const Peer::Line&) {
    ::execl(THEUS_COORDINATOR_EXECUTABLE, "theus-coordinator", "--log", "/dev/null", "shop",
            static_cast<char*>(nullptr));
  });
  const int status = second.wait_status();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  EXPECT_EQ(now_serving("shop"), started.pid);
  std::ifstream lock(directory_ + "/shop.lock");
  std::uint32_t owner = 0;
  lock >> owner;
  EXPECT_EQ(owner, started.supervisor_pid);
}

TEST_F(CoordinatorDeath, AnEmbeddedOneEndsWithItsStarter) {
  const worker::StartOptions chosen = options("shop");
  Peer starter([chosen](const Peer::Line& line) {
    const auto started = worker::start_coordinator(chosen);
    line.say(started.lifeline_fd >= 0 ? 's' : 'x');
    line.hear();
  });
  ASSERT_EQ(starter.line().hear(), 's');
  const shm::Admission eye = observe("shop");
  const shm::OwnedFd child = pidfd_of(eye.coordinator_pid);
  const shm::OwnedFd supervisor = pidfd_of(eye.supervisor_pid);
  starter.kill_and_reap();
  EXPECT_TRUE(ends(child.get()));
  EXPECT_TRUE(ends(supervisor.get()));
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CoordinatorDeath, AnEmbeddedOneStaysForItsWorkers) {
  const auto started = start("shop");
  const shm::OwnedFd supervisor = pidfd_of(started.supervisor_pid);
  const auto first = attached_worker("shop");
  const auto second = attached_worker("shop");
  drop_lifelines();
  first->kill_and_reap();
  // A restarted one has to know as well that it is still used.
  restart(started.pid, "shop");
  second->line().say('c');
  EXPECT_EQ(second->line().hear(), 'c');
  second->line().say('d');
  EXPECT_EQ(second->line().hear(), 'd');
  EXPECT_TRUE(ends(supervisor.get()));
}

TEST_F(CoordinatorDeath, AProcessThatExecsKeepsItsSlotUntilItEnds) {
  start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto peer = attached_worker("shop");
  const auto other = attached_worker("shop");
  peer->line().say('e');
  // The control socket has gone when the program has changed.
  ASSERT_TRUE(eventually([&] {
    std::ifstream name("/proc/" + std::to_string(peer->pid()) + "/comm");
    std::string text;
    return std::getline(name, text) && text == "sleep";
  }));
  other->line().say('d');
  EXPECT_EQ(other->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  peer->kill_and_reap();
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
}

TEST_F(CoordinatorDeath, AStoppedLockHolderIsFenced) {
  start("shop");
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  holder->signal(SIGSTOP);
  waiter->line().say('c');
  EXPECT_EQ(waiter->line().hear(), 'c');
  const std::string line = "killed process " + std::to_string(holder->pid());
  EXPECT_TRUE(eventually([&] { return log_text().find(line) != std::string::npos; }));
  const int status = holder->wait_status();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST_F(CoordinatorDeath, AStoppedHolderIsFencedForAnAdmissionAsWell) {
  start("shop");
  const auto holder = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  holder->signal(SIGSTOP);
  const auto another = attached_worker("shop");
}

TEST_F(CoordinatorDeath, AStoppedHolderIsFencedByARestartedCoordinator) {
  const auto started = start("shop");
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  holder->signal(SIGSTOP);
  ::kill(static_cast<pid_t>(started.pid), SIGKILL);
  waiter->line().say('c');
  EXPECT_EQ(waiter->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, ADeadHoldersLockPassesOn) {
  start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  holder->kill_and_reap();
  // Without anybody asking for the lock: the coordinator repairs by itself.
  EXPECT_TRUE(eventually([&] { return space.header().repairs.load() == 1; }));
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  waiter->line().say('c');
  EXPECT_EQ(waiter->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, AStoppedSupervisorOnlyDelaysAdmissions) {
  const auto started = start("shop");
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto peer = attached_worker("shop");
  const auto supervisor = static_cast<pid_t>(started.supervisor_pid);
  ::kill(supervisor, SIGSTOP);
  ASSERT_TRUE(eventually([&] {
    return shm::thread_state(started.supervisor_pid, started.supervisor_pid) == 'T';
  }));
  Peer late([](const Peer::Line& line) {
    const worker::Attachment attachment = worker::attach("shop");
    line.say('a');
    line.hear();
  });
  // It has its slot, and waits to be told.
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 2; }));
  peer->line().say('c');
  EXPECT_EQ(peer->line().hear(), 'c');
  peer->line().say('d');
  EXPECT_EQ(peer->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  ::kill(supervisor, SIGCONT);
  EXPECT_EQ(late.line().hear(), 'a');
}

TEST_F(CoordinatorDeath, AStoppedProcessWithoutTheLockIsLeftAlone) {
  start("shop");
  const auto stopped = attached_worker("shop");
  const auto busy = attached_worker("shop");
  stopped->signal(SIGSTOP);
  constexpr int kCommits = 100;
  for (int i = 0; i < kCommits; ++i) {
    busy->line().say('c');
    ASSERT_EQ(busy->line().hear(), 'c');
  }
  stopped->signal(SIGCONT);
  stopped->line().say('p');
  EXPECT_EQ(stopped->line().hear(), 'p');
}

TEST_F(CoordinatorDeath, AHolderThatRunsIsGivenTime) {
  // It holds the lock for longer than a stopped one may, and goes on: a loaded machine looks so.
  start("shop");
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  waiter->line().say('c');
  constexpr std::uint64_t kHeldNs = 300'000'000;
  const std::uint64_t until = shm::monotonic_ns() + kHeldNs;
  EXPECT_TRUE(eventually([&] { return shm::monotonic_ns() >= until; }));
  holder->line().say('u');
  EXPECT_EQ(holder->line().hear(), 'u');
  EXPECT_EQ(waiter->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, AHolderThatGetsOnIsLeftAlone) {
  start("shop");
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('w');
  ASSERT_EQ(holder->line().hear(), 'l');
  waiter->line().say('c');
  // Half as long again as one may hold it that does nothing.
  const std::uint64_t held_ns =
      coordinator::Suspicion::Limits{}.looks_other * coordinator::kLookIntervalNs * 3 / 2;
  const std::uint64_t until = shm::monotonic_ns() + held_ns;
  EXPECT_TRUE(eventually([&] { return shm::monotonic_ns() >= until; }));
  holder->line().say('u');
  EXPECT_EQ(holder->line().hear(), 'u');
  EXPECT_EQ(waiter->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, AHolderThatDoesNothingIsFenced) {
  start("shop");
  const auto holder = attached_worker("shop");
  const auto waiter = attached_worker("shop");
  holder->line().say('l');
  ASSERT_EQ(holder->line().hear(), 'l');
  waiter->line().say('c');
  EXPECT_EQ(waiter->line().hear(), 'c');
  const int status = holder->wait_status();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST_F(CoordinatorDeath, AStoppedCoordinatorIsReplaced) {
  const auto started = start("shop");
  const auto peer = attached_worker("shop");
  ::kill(static_cast<pid_t>(started.pid), SIGSTOP);
  EXPECT_TRUE(ends(started.pid));
  EXPECT_NE(now_serving("shop"), started.pid);
  peer->line().say('c');
  EXPECT_EQ(peer->line().hear(), 'c');
}

TEST_F(CoordinatorDeath, StoppingAndContinuingBothKillsNobody) {
  // Ctrl-Z and fg.
  const auto started = start("shop");
  const auto supervisor = static_cast<pid_t>(started.supervisor_pid);
  const auto child = static_cast<pid_t>(started.pid);
  constexpr int kRounds = 5;
  for (int i = 0; i < kRounds; ++i) {
    ::kill(supervisor, SIGSTOP);
    ::kill(child, SIGSTOP);
    ASSERT_TRUE(eventually([&] { return shm::thread_state(started.pid, started.pid) == 'T'; }));
    ::kill(child, SIGCONT);
    ::kill(supervisor, SIGCONT);
    EXPECT_EQ(now_serving("shop"), started.pid);
  }
}

TEST_F(CoordinatorDeath, NothingIsLeftBehind) {
  const auto count = [] {
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      ++files;
    }
    return files;
  };
  const std::size_t before = count();
  const auto started = start("shop");
  const auto peer = attached_worker("shop");
  peer->line().say('c');
  EXPECT_EQ(peer->line().hear(), 'c');
  EXPECT_EQ(count(), before) << "memory with a name";
  const shm::OwnedFd supervisor = pidfd_of(started.supervisor_pid);
  peer->kill_and_reap();
  drop_lifelines();
  EXPECT_TRUE(ends(supervisor.get()));
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

}  // namespace
}  // namespace theus::testing
