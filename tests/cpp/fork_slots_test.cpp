// The slots that forked children have: leased, adopted, given back; and that nothing else is left
// in a child.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "shm/control_channel.h"
#include "shm/process.h"
#include "tests/cpp/fork_harness.h"

namespace theus::testing {
namespace {

using worker::Session;
using worker::Transaction;

class ForkSlots : public ForkTest {};

TEST_F(ForkSlots, AChildsDeathGivesItsSlotBack) {
  const auto child = heir();
  EXPECT_TRUE(spares_become(2)) << "the child's, and the parent's next one";
  views_->release();
  put(*session_, 'y');
  EXPECT_GT(retained(*session_), 0u);
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
  EXPECT_EQ(retained(*session_), 0u);
}

TEST_F(ForkSlots, TheSessionsEndInAChildGivesItsSlotBack) {
  const Child child([this](const Peer::Line& line) {
    views_.reset();
    session_.reset();
    line.say('s');
    line.hear();
  });
  EXPECT_TRUE(spares_become(1));
  EXPECT_EQ(slots_in_use(space()), 1u);
  EXPECT_TRUE(views_->good());
  put(*session_, 'y');
}

TEST_F(ForkSlots, AProgramThatAChildExecutesHoldsNoSlot) {
  const Child child(
      [](const Peer::Line&) { ::execl("/bin/sleep", "sleep", "60", static_cast<char*>(nullptr)); });
  EXPECT_TRUE(spares_become(1));
  EXPECT_TRUE(shm::thread_state(static_cast<std::uint32_t>(child.pid()),
                                static_cast<std::uint32_t>(child.pid()))
                  .has_value());
}

TEST_F(ForkSlots, AProgramThatIsExecutedAfterClosingEverythingHoldsNoSlotEither) {
  // As subprocess does it. The coordinator sees the socket's end while the memory is still there.
  const Child child([](const Peer::Line& line) {
    line.hear();
    const auto keep = static_cast<unsigned>(line.fd());
    ::syscall(SYS_close_range, 3u, keep - 1, 0u);
    ::syscall(SYS_close_range, keep + 1, ~0u, 0u);
    line.say('c');
    line.hear();
    ::execl("/bin/sleep", "sleep", "60", static_cast<char*>(nullptr));
  });
  EXPECT_EQ(child.ask('?'), 'c');
  views_->release();
  attached_worker("shop");
  EXPECT_TRUE(spares_become(2));
  child.ask('e');
  EXPECT_TRUE(spares_become(1));
  EXPECT_TRUE(shm::thread_state(static_cast<std::uint32_t>(child.pid()),
                                static_cast<std::uint32_t>(child.pid()))
                  .has_value());
}

TEST_F(ForkSlots, AChildThatClosesItsDescriptorsKeepsItsSlot) {
  const Child child([this](const Peer::Line& line) {
    const auto keep = static_cast<unsigned>(line.fd());
    ::syscall(SYS_close_range, 3u, keep - 1, 0u);
    ::syscall(SYS_close_range, keep + 1, ~0u, 0u);
    line.say('c');
    obey_with_views(line, *views_);
  });
  EXPECT_EQ(child.ask('v'), 'c');
  views_->release();
  attached_worker("shop");  // what came before it has been seen by the coordinator
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
  // The next coordinator is told whose it is.
  const std::uint32_t pid = space().header().coordinator_pid.load();
  kill_coordinator();
  EXPECT_TRUE(serves_again(pid));
  attached_worker("shop");
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
}

TEST_F(ForkSlots, WithoutViewsNoSlotIsUsed) {
  views_->release();
  Transaction open(*session_);
  open.begin(worker::Isolation::kSerializable);
  const Child child([this](const Peer::Line& line) {
    line.hear();
    line.say(session_->keeps_views() ? 'k' : 'n');
  });
  EXPECT_EQ(child.ask('?'), 'n');
  EXPECT_EQ(spares(), 1u);
}

TEST_F(ForkSlots, ManyChildrenOneAfterTheOther) {
  const std::size_t descriptors = open_descriptors();
  std::vector<std::unique_ptr<Child>> children;
  constexpr std::uint32_t kChildren = 12;
  for (std::uint32_t i = 0; i < kChildren; ++i) {
    children.push_back(heir());
  }
  EXPECT_TRUE(spares_become(kChildren + 1));
  EXPECT_EQ(open_descriptors(), descriptors + kChildren) << "one line for each child";
  views_->release();
  overwrite_everything(*session_);
  for (const auto& child : children) {
    EXPECT_EQ(child->ask('v'), 'y');
  }
  children.clear();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(ForkSlots, WhileTheCoordinatorIsDead) {
  const std::uint32_t pid = space().header().coordinator_pid.load();
  // The supervisor cannot replace it yet.
  ::kill(static_cast<pid_t>(started_.supervisor_pid), SIGSTOP);
  kill_coordinator();
  const auto child = heir();
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  ::kill(static_cast<pid_t>(started_.supervisor_pid), SIGCONT);
  EXPECT_TRUE(serves_again(pid));
  EXPECT_TRUE(spares_become(2)) << "the child's, and the one that the parent has asked for";
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(ForkSlots, ARestartedCoordinatorKnowsAdoptedSlots) {
  const std::uint32_t pid = space().header().coordinator_pid.load();
  const auto child = heir();
  EXPECT_TRUE(spares_become(2));
  kill_coordinator();
  EXPECT_TRUE(serves_again(pid));
  views_->release();
  attached_worker("shop");  // evicted, if it was to be, before this one is let in
  EXPECT_TRUE(spares_become(2));
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(ForkSlots, AnAdoptionThatTheCoordinatorLostDoesNoHarm) {
  // Stopped: the child's message is in the socket, and is read by the next one.
  const std::uint32_t pid = space().header().coordinator_pid.load();
  ::kill(static_cast<pid_t>(pid), SIGSTOP);
  const auto child = heir();
  kill_coordinator();
  EXPECT_TRUE(serves_again(pid));
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  EXPECT_TRUE(spares_become(2));
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(ForkSlots, ASpareSlotOfAWorkerThatDiesComesBack) {
  views_.reset();
  const auto worker = attached_worker("shop");
  EXPECT_TRUE(spares_become(2));
  worker->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(ForkSlots, GarbageOnASpareSlotsSocketCostsOnlyTheSlot) {
  auto [ours, theirs] = shm::make_control_pair();
  const worker::Attachment attachment = worker::attach("shop");
  const shm::OwnedFd control(attachment.control_fd);
  ASSERT_EQ(shm::send_control(control.get(), shm::Reserve{}, {theirs.get()}), shm::Sent::kYes);
  theirs.reset();
  const shm::Received told = shm::await_control(ours.get(), deadline_ns());
  ASSERT_TRUE(std::holds_alternative<shm::Reserved>(told.message)) << told.why;
  EXPECT_EQ(spares(), 2u);
  ASSERT_EQ(shm::send_control(ours.get(), shm::Stuck{1}), shm::Sent::kYes);
  EXPECT_EQ(shm::await_control(ours.get(), deadline_ns()).what, shm::Received::What::kClosed);
  EXPECT_TRUE(spares_become(1));
  EXPECT_EQ(slots_in_use(space()), 2u);
  EXPECT_EQ(observe("shop").coordinator_pid, started_.pid);
}

TEST_F(ForkSlots, DescriptorsThatTheProgramClosedAreNotClosedAgain) {
  // A daemon closes whatever is open, and its own files get the same numbers.
  const Child child([this](const Peer::Line& line) {
    const auto keep = static_cast<unsigned>(line.fd());
    ::syscall(SYS_close_range, 3u, keep - 1, 0u);
    ::syscall(SYS_close_range, keep + 1, ~0u, 0u);
    std::vector<int> own;
    for (int i = 0; i < 64; ++i) own.push_back(::open("/dev/null", O_RDWR));
    const pid_t pid = ::fork();
    const bool all =
        std::all_of(own.begin(), own.end(), [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; });
    if (pid == 0) ::_exit(all ? 0 : 1);
    const bool grandchild = wait_for(pid) == 0;
    views_.reset();
    session_.reset();
    const bool still =
        std::all_of(own.begin(), own.end(), [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; });
    line.say(grandchild && still ? 'y' : 'n');
    line.hear();
  });
  EXPECT_EQ(child.ask('?'), 'y');
}

TEST_F(ForkSlots, NothingOfManySessionsIsLeftInAChild) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer knows at most 64 locks that one thread holds";
#endif
  views_.reset();
  Peer parent([](const Peer::Line& line) {
    constexpr int kSessions = 80;
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < kSessions; ++i) {
      sessions.push_back(std::make_unique<Session>(worker::attach("shop")));
    }
    line.say('a');
    line.hear();
    if (::fork() == 0) {
      bool closed = true;
      for (const auto& session : sessions) {
        // Something is mapped there, and it cannot be read.
        void* at = session->space().writable_base();
        closed = closed &&
                 ::mmap(at, shm::kPageBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED;
        closed = closed && ::write(line.fd(), at, 1) < 0;
      }
      line.say(closed ? 'y' : 'n');
      line.hear();
      ::_exit(0);
    }
    ::pause();
  });
  ASSERT_EQ(parent.line().hear(), 'a');
  EXPECT_EQ(slots_in_use(space()), 81u);
  parent.line().say('f');
  EXPECT_EQ(parent.line().hear(), 'y');
  ::kill(parent.pid(), SIGKILL);
  // The child still lives.
  EXPECT_TRUE(eventually([&] { return slots_in_use(space()) == 1; })) << slots_in_use(space());
  EXPECT_TRUE(spares_become(1)) << spares();
  parent.line().say('q');
}

}  // namespace
}  // namespace theus::testing
