// The supervisor over children that the test has written: what it does about one that goes wrong,
// and what the next one finds.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "coordinator/estate.h"
#include "coordinator/log.h"
#include "coordinator/server.h"
#include "coordinator/supervisor.h"
#include "shm/arbiter.h"
#include "shm/control_channel.h"
#include "shm/journal.h"
#include "shm/process.h"
#include "tests/cpp/coordinator_harness.h"

namespace theus::testing {
namespace {

using coordinator::Estate;
using coordinator::RosterEntry;
using Child = coordinator::Supervisor::Child;

class CoordinatorSupervisor : public CoordinatorTest {
 protected:
  // What a child does before it serves; it may never come to that.
  using Detour = std::function<void(const Estate&, Child&)>;
  struct Shared {
    std::atomic<int> children{0};
    std::atomic<int> mark{0};
  };

  void SetUp() override {
    CoordinatorTest::SetUp();
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    shared_ = new (memory) Shared;
  }
  void TearDown() override {
    supervisor_.reset();
    CoordinatorTest::TearDown();
    ::munmap(shared_, sizeof(Shared));
  }

  // A coordinator "shop" whose first child takes the first detour, and so on; the rest serve.
  void supervise(const std::vector<Detour>& detours) {
    const std::string log = log_path();
    Shared* shared = shared_;
    supervisor_ = std::make_unique<Peer>([=](const Peer::Line&) {
      const auto logger = coordinator::make_logger("shop", log, "info");
      coordinator::Options chosen;
      chosen.name = "shop";
      chosen.capacity_bytes = 64u << 20;
      Estate estate = Estate::claim(chosen);
      coordinator::Supervisor supervisor(estate, *logger);
      if (auto child = supervisor.run()) {
        const auto number = static_cast<std::size_t>(shared->children++);
        if (number < detours.size()) {
          detours[number](estate, *child);
        }
        coordinator::Server server(estate, std::move(child->roster), std::move(child->channel),
                                   *logger);
        server.run();
      }
    });
    // From here on there is something to connect to.
    ASSERT_TRUE(eventually([&] { return shared_->children.load() > 0; }));
  }
  static void serve(const Estate&, Child&) {}

  // Takes the lock, says so with mark 1, and does `body` over and over for ever.
  Detour holding_the_lock(std::function<void(const shm::Space&)> body) {
    return [body = std::move(body), shared = shared_](const Estate& estate, Child&) {
      const shm::Space space(estate.segments, shm::Access::kWorker);
      shm::Arbiter arbiter(space, shm::kNoSlot);
      ASSERT_TRUE(arbiter.lock_for(kPatienceNs));
      shared->mark = 1;
      for (;;) {
        body(space);
      }
    };
  }
  bool marked() {
    return eventually([&] { return shared_->mark.load() == 1; });
  }
  void kill_child() {
    const shm::Admission eye = observe("shop");
    ::kill(static_cast<pid_t>(eye.coordinator_pid), SIGKILL);
  }

  Shared* shared_ = nullptr;
  std::unique_ptr<Peer> supervisor_;
};

void do_nothing(const shm::Space&) { ::poll(nullptr, 0, 1000); }
void spin(const shm::Space&) {}

TEST_F(CoordinatorSupervisor, AChildThatKeepsTheLockIsReplacedForAWorker) {
  supervise({serve, holding_the_lock(spin)});
  const auto worker = attached_worker("shop");
  kill_child();
  ASSERT_TRUE(marked());
  worker->line().say('c');
  EXPECT_EQ(worker->line().hear(), 'c');
  // The dead child's lock passes on to the worker before the next child serves.
  EXPECT_TRUE(eventually([&] { return shared_->children.load() == 3; }));
  EXPECT_NE(log_text().find("held the arbitration lock without getting on"), std::string::npos);
}

TEST_F(CoordinatorSupervisor, AChildThatSleepsWithTheLockIsReplacedForOneWhoJoins) {
  supervise({holding_the_lock(do_nothing)});
  ASSERT_TRUE(marked());
  const auto worker = attached_worker("shop");
  worker->line().say('c');
  EXPECT_EQ(worker->line().hear(), 'c');
  EXPECT_EQ(shared_->children.load(), 2);
}

TEST_F(CoordinatorSupervisor, ADetachThatDiedWithItsReaderIsStillKnown) {
  const auto shared = shared_;
  supervise({serve, [shared](const Estate&, Child& child) {
               // A spare slot may be among them.
               const auto member =
                   std::find_if(child.roster.begin(), child.roster.end(),
                                [](const RosterEntry& entry) { return !entry.spare; });
               ASSERT_NE(member, child.roster.end());
               shared->mark = 1;
               for (bool over = false; !over;) {
                 const auto received = shm::await_control(member->control.get(), deadline_ns());
                 if (std::holds_alternative<shm::Detach>(received.message)) {
                   shared->mark = 2;
                 }
                 // It may have asked for its spare slot again.
                 over = !std::holds_alternative<shm::Reserve>(received.message);
               }
               ::kill(::getpid(), SIGKILL);
             }});
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto worker = attached_worker("shop");
  ASSERT_EQ(slots_in_use(space), 1u);
  kill_child();
  ASSERT_TRUE(marked());
  worker->line().say('d');
  EXPECT_EQ(worker->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
  EXPECT_EQ(shared_->mark.load(), 2);
  worker->line().say('p');
  EXPECT_EQ(worker->line().hear(), 'p') << "the process lives on";
}

TEST_F(CoordinatorSupervisor, WhatOneTenantSaidIsNotTheNextOnes) {
  supervise({});
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto first = attached_worker("shop");
  first->line().say('d');
  EXPECT_EQ(first->line().hear(), 'd');
  ASSERT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
  ASSERT_NE(space.desk_readable(0).leaving.load(), 0u);
  const auto next = attached_worker("shop");  // in the same slot
  const auto other = attached_worker("shop");
  next->line().say('e');  // its control socket is closed, and it goes on
  ASSERT_TRUE(eventually([&] {
    std::ifstream name("/proc/" + std::to_string(next->pid()) + "/comm");
    std::string text;
    return std::getline(name, text) && text == "sleep";
  }));
  other->line().say('d');
  EXPECT_EQ(other->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 1; }));
  next->kill_and_reap();
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
}

TEST_F(CoordinatorSupervisor, AChildThatGetsOnIsLeftAlone) {
  const auto shared = shared_;
  supervise({[shared](const Estate& estate, Child&) {
    const shm::Space space(estate.segments, shm::Access::kWorker);
    shm::Arbiter arbiter(space, shm::kNoSlot);
    ASSERT_TRUE(arbiter.lock_for(kPatienceNs));
    shm::StepJournal journal(space);
    journal.begin(shm::kNoVersion);
    shm::Word& hint = space.writable().run_hint;
    const std::uint64_t held_ns =
        coordinator::Suspicion::Limits{}.looks_other * coordinator::kLookIntervalNs * 3 / 2;
    const std::uint64_t until = shm::monotonic_ns() + held_ns;
    while (shm::monotonic_ns() < until) {
      journal.set(hint, hint.load(std::memory_order_relaxed));
      ::poll(nullptr, 0, 1);
    }
    journal.end();
    arbiter.unlock();
    shared->mark = 1;
  }});
  const auto worker = attached_worker("shop");  // waits, and raises the alarm, all the while
  EXPECT_EQ(shared_->mark.load(), 1);
  EXPECT_EQ(shared_->children.load(), 1);
}

TEST_F(CoordinatorSupervisor, AlarmsDoNotHurryIt) {
  const auto shared = shared_;
  supervise({[shared](const Estate& estate, Child&) {
    const shm::Space space(estate.segments, shm::Access::kWorker);
    shm::Arbiter arbiter(space, shm::kNoSlot);
    ASSERT_TRUE(arbiter.lock_for(kPatienceNs));
    shared->mark = 1;
    EXPECT_TRUE(eventually([&] { return shared->mark == 2; }));
    arbiter.unlock();
  }});
  ASSERT_TRUE(marked());
  // For a fifth of the time that a holder is given, and more of them than looks.
  const std::uint64_t held_ns =
      coordinator::Suspicion::Limits{}.looks_other * coordinator::kLookIntervalNs / 5;
  const std::uint64_t until = shm::monotonic_ns() + held_ns;
  while (shm::monotonic_ns() < until) {
    shm::alarm_supervisor(static_cast<std::uint32_t>(supervisor_->pid()));
    ::poll(nullptr, 0, 1);
  }
  shared_->mark = 2;
  const auto worker = attached_worker("shop");
  worker->line().say('c');
  EXPECT_EQ(worker->line().hear(), 'c');
  EXPECT_EQ(shared_->children.load(), 1);
}

}  // namespace
}  // namespace theus::testing
