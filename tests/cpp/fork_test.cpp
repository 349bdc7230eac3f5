// What forked children inherit: views under pins of their own, and nothing else.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "shm/arbiter.h"
#include "shm/control_channel.h"
#include "shm/process.h"
#include "tests/cpp/coordinator_harness.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using worker::Session;
using worker::Snapshot;
using worker::Transaction;

constexpr std::size_t kBytes = 200'000;

void put(Session& session, char fill) {
  commit(session, [fill](Transaction& t) { t.put_bytes(at(t, {"x"}), std::string(kBytes, fill)); });
}

void reclaim_all(Session& session) {
  shm::Arbiter arbiter(session.space(), session.slot());
  for (bool more = true; more;) {
    ASSERT_TRUE(arbiter.lock_for(kPatienceNs));
    more = arbiter.reclaim(1000) || arbiter.reclaim_found();
    arbiter.unlock();
  }
}

// Uses all memory that is free, again and again: what nothing keeps is overwritten.
void overwrite_everything(Session& session) {
  for (int i = 0; i < 50; ++i) {
    put(session, static_cast<char>('a' + i % 20));
    reclaim_all(session);
  }
}

std::uint64_t retained(Session& session) {
  reclaim_all(session);
  return session.space().header().retained_count.load();
}

// A snapshot and a held block, each of which must keep showing what it showed.
struct Views {
  explicit Views(Session& its_session, char its_fill)
      : session(its_session), fill(its_fill), snapshot(std::make_unique<Snapshot>(session)) {
    seen = read(*snapshot, {"x"});
    pin = session.pin_block(seen.block);
  }
  ~Views() { release(); }
  bool good() const {
    const std::string expected(kBytes, fill);
    return (!pin || seen.bytes() == expected) &&
           (!snapshot || read(*snapshot, {"x"}).bytes() == expected);
  }
  void release() {
    if (pin) session.unpin_block(*std::exchange(pin, std::nullopt));
    snapshot.reset();
  }

  Session& session;
  char fill;
  std::unique_ptr<Snapshot> snapshot;
  worker::Value seen;
  std::optional<std::uint32_t> pin;
};

// A bare fork, with everything inherited; Peer closes what it inherits. Says 'b' when it runs.
class Child {
 public:
  explicit Child(const std::function<void(const Peer::Line&)>& body) {
    auto [ours, theirs] = shm::make_control_pair();
    pid_ = ::fork();
    if (pid_ == 0) {
      ours.reset();
      const Peer::Line line(std::move(theirs));
      line.say('b');
      int status = 0;
      try {
        body(line);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "child: %s\n", error.what());
        status = 1;
      }
      ::_exit(status);
    }
    line_.emplace(std::move(ours));
    theirs.reset();
    EXPECT_EQ(line_->hear(), 'b');
  }
  ~Child() { kill_and_reap(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  char ask(char what) const {
    line_->say(what);
    return line_->hear();
  }
  pid_t pid() const { return pid_; }
  void kill_and_reap() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait_for(std::exchange(pid_, -1));
    }
  }
  int wait_status() { return wait_for(std::exchange(pid_, -1)); }

 private:
  pid_t pid_ = -1;
  std::optional<Peer::Line> line_;
};

// 'v' are the views good? 'r' release them, 'q' end.
void obey_with_views(const Peer::Line& line, Views& views) {
  for (;;) {
    switch (line.hear()) {
      case 'v':
        line.say(views.good() ? 'y' : 'n');
        break;
      case 'r':
        views.release();
        line.say('r');
        break;
      default:
        return;
    }
  }
}

class Fork : public CoordinatorTest {
 protected:
  void SetUp() override {
    CoordinatorTest::SetUp();
    started_ = start("shop");
    session_ = std::make_unique<Session>(worker::attach("shop"));
    EXPECT_TRUE(spares_become(1));
    // The supervisor answers in order: when somebody else has been let in, we have our spare slot.
    attached_worker("shop");
    EXPECT_TRUE(spares_become(1));
    EXPECT_TRUE(eventually([&] { return slots_in_use(space()) == 1; }));
    put(*session_, 'x');
    views_ = std::make_unique<Views>(*session_, 'x');
  }
  void TearDown() override {
    views_.reset();
    session_.reset();
    CoordinatorTest::TearDown();
  }
  const shm::Space& space() { return session_->space(); }
  std::uint32_t spares() { return spares_in_use(space()); }
  bool spares_become(std::uint32_t count) {
    return eventually([&] { return spares() == count; });
  }
  std::unique_ptr<Child> heir() {
    return std::make_unique<Child>(
        [this](const Peer::Line& line) { obey_with_views(line, *views_); });
  }
  void restart_coordinator() {
    const std::uint32_t pid = space().header().coordinator_pid.load();
    ::kill(static_cast<pid_t>(pid), SIGKILL);
    EXPECT_TRUE(ends(pid));
  }
  bool serves_again(std::uint32_t than) {
    return eventually([&] { return space().header().coordinator_pid.load() != than; });
  }

  worker::Started started_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Views> views_;
};

TEST_F(Fork, AChildKeepsWhatTheParentReleases) {
  const auto child = heir();
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
}

TEST_F(Fork, TheParentKeepsWhatAChildReleases) {
  const auto child = heir();
  EXPECT_EQ(child->ask('r'), 'r');
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
  overwrite_everything(*session_);
  EXPECT_TRUE(views_->good());
}

TEST_F(Fork, AChildKeepsWhatItInheritedFromAParentThatWasKilled) {
  views_.reset();  // the parent is to have views of its own only
  // The test's line to the parent goes on to the child: they answer one after the other.
  Peer parent([](const Peer::Line& line) {
    Session session(worker::attach("shop"));
    Views views(session, 'x');
    line.say('a');
    line.hear();
    const pid_t pid = ::fork();
    if (pid == 0) {
      line.say('c');
      obey_with_views(line, views);
      ::_exit(0);
    }
    ::pause();
  });
  ASSERT_EQ(parent.line().hear(), 'a');
  EXPECT_EQ(slots_in_use(space()), 2u);
  parent.line().say('f');
  ASSERT_EQ(parent.line().hear(), 'c');
  ::kill(parent.pid(), SIGKILL);
  EXPECT_TRUE(eventually([&] { return slots_in_use(space()) == 1; })) << "the parent is evicted";
  EXPECT_TRUE(spares_become(2)) << "its own next spare is gone, the child's is not";
  overwrite_everything(*session_);
  parent.line().say('v');
  EXPECT_EQ(parent.line().hear(), 'y');
  parent.line().say('q');
  EXPECT_TRUE(spares_become(1));
  EXPECT_EQ(retained(*session_), 0u);
}

TEST_F(Fork, WhatAChildReleasesComesBack) {
  const auto child = heir();
  views_->release();
  put(*session_, 'y');
  EXPECT_GT(retained(*session_), 0u);
  EXPECT_EQ(child->ask('r'), 'r');
  EXPECT_EQ(retained(*session_), 0u);
}

TEST_F(Fork, AChildMayPinFurtherBlocksOfItsSnapshot) {
  const Child child([this](const Peer::Line& line) {
    const std::uint32_t pin = session_->pin_block(views_->seen.block);
    session_->unpin_block(*std::exchange(views_->pin, pin));
    views_->snapshot.reset();
    obey_with_views(line, *views_);
  });
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
}

TEST_F(Fork, AChildsDeathGivesItsSlotBack) {
  const auto child = heir();
  EXPECT_TRUE(spares_become(2)) << "the child's, and the parent's next one";
  views_->release();
  put(*session_, 'y');
  EXPECT_GT(retained(*session_), 0u);
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
  EXPECT_EQ(retained(*session_), 0u);
}

TEST_F(Fork, TheSessionsEndInAChildGivesItsSlotBack) {
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

TEST_F(Fork, AProgramThatAChildExecutesHoldsNoSlot) {
  const Child child([](const Peer::Line&) {
    ::execl("/bin/sleep", "sleep", "60", static_cast<char*>(nullptr));
  });
  EXPECT_TRUE(spares_become(1));
  EXPECT_TRUE(shm::thread_state(static_cast<std::uint32_t>(child.pid()),
                                static_cast<std::uint32_t>(child.pid())).has_value());
}

TEST_F(Fork, AProgramThatIsExecutedAfterClosingEverythingHoldsNoSlotEither) {
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
                                static_cast<std::uint32_t>(child.pid())).has_value());
}

TEST_F(Fork, AChildThatClosesItsDescriptorsKeepsItsSlot) {
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
}

TEST_F(Fork, WithoutViewsNoSlotIsUsed) {
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

TEST_F(Fork, TransactionsStayBehind) {
  put(*session_, 'y');
  Transaction open(*session_);
  open.begin(worker::Isolation::kSerializable);
  const auto child = heir();
  open.rollback();
  put(*session_, 'z');
  // The version of the transaction is nobody's any more; the snapshot's is the child's.
  views_->release();
  reclaim_all(*session_);
  const std::uint64_t pins = session_->stats().oldest_pin;
  EXPECT_EQ(pins, 1u);
  EXPECT_EQ(child->ask('r'), 'r');
  EXPECT_EQ(session_->stats().oldest_pin, session_->version());
}

TEST_F(Fork, ManyChildrenOneAfterTheOther) {
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

TEST_F(Fork, OfSeveralSessions) {
  start("other");
  Session other(worker::attach("other"));
  put(other, 'o');
  Views others(other, 'o');
  const Child child([&](const Peer::Line& line) {
    line.hear();
    line.say(views_->good() && others.good() ? 'y' : 'n');
  });
  views_->release();
  others.release();
  overwrite_everything(*session_);
  overwrite_everything(other);
  EXPECT_EQ(child.ask('v'), 'y');
}

// ------------------------------------------------------------------------- deaths in between

TEST_F(Fork, WhileTheCoordinatorIsDead) {
  const std::uint32_t pid = space().header().coordinator_pid.load();
  // The supervisor cannot replace it yet.
  ::kill(static_cast<pid_t>(started_.supervisor_pid), SIGSTOP);
  restart_coordinator();
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

TEST_F(Fork, ARestartedCoordinatorKnowsAdoptedSlots) {
  const std::uint32_t pid = space().header().coordinator_pid.load();
  const auto child = heir();
  EXPECT_TRUE(spares_become(2));
  restart_coordinator();
  EXPECT_TRUE(serves_again(pid));
  views_->release();
  attached_worker("shop");  // evicted, if it was to be, before this one is let in
  EXPECT_TRUE(spares_become(2));
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(Fork, AnAdoptionThatTheCoordinatorLostDoesNoHarm) {
  // Stopped: the child's message is in the socket, and is read by the next one.
  const std::uint32_t pid = space().header().coordinator_pid.load();
  ::kill(static_cast<pid_t>(pid), SIGSTOP);
  const auto child = heir();
  restart_coordinator();
  EXPECT_TRUE(serves_again(pid));
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child->ask('v'), 'y');
  EXPECT_TRUE(spares_become(2));
  child->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(Fork, ASpareSlotOfAWorkerThatDiesComesBack) {
  views_.reset();
  const auto worker = attached_worker("shop");
  EXPECT_TRUE(spares_become(2));
  worker->kill_and_reap();
  EXPECT_TRUE(spares_become(1));
}

TEST_F(Fork, GarbageOnASpareSlotsSocketCostsOnlyTheSlot) {
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

// ------------------------------------------------------------------------------ without a slot

TEST(ForkAlone, WithoutASlotTheChildsMappingIsClosed) {
  World world;
  Session session(world.attachment(world.admit(::getpid())));
  put(session, 'x');
  const Views views(session, 'x');
  const pid_t polite = ::fork();
  if (polite == 0) {
    bool refused = !session.keeps_views();
    try {
      session.pin_block(views.seen.block);
      refused = false;
    } catch (const worker::Error&) {
    }
    ::_exit(refused ? 0 : 1);
  }
  EXPECT_EQ(wait_for(polite), 0);
  const pid_t looking = ::fork();
  if (looking == 0) {
    ::signal(SIGSEGV, SIG_DFL);
    ::_exit(views.good() ? 1 : 2);
  }
  const int status = wait_for(looking);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
  EXPECT_TRUE(views.good());
}

// ------------------------------------------------------------------------------- grandchildren

TEST_F(Fork, AGrandchildHasPinsOfItsOwn) {
  // The line goes on to the grandchild when the child has ended.
  Child child([this](const Peer::Line& line) {
    if (::fork() == 0) {
      obey_with_views(line, *views_);
      ::_exit(0);
    }
    views_->release();
  });
  EXPECT_EQ(child.wait_status(), 0);
  EXPECT_TRUE(spares_become(2)) << "the parent's next, and the grandchild's";
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
  EXPECT_EQ(child.ask('r'), 'r');
  EXPECT_EQ(retained(*session_), 0u);
}

TEST_F(Fork, AGrandchildsReleaseLeavesTheChildsPins) {
  const Child child([this](const Peer::Line& line) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      views_->release();
      ::_exit(0);
    }
    if (wait_for(pid) == 0) line.say('g');
    obey_with_views(line, *views_);
  });
  EXPECT_EQ(child.ask('v'), 'g');
  EXPECT_TRUE(spares_become(2));
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
}

TEST_F(Fork, AGrandchildWithoutACoordinatorSeesNothing) {
  ::kill(static_cast<pid_t>(started_.supervisor_pid), SIGKILL);
  EXPECT_TRUE(ends(started_.supervisor_pid));
  ::kill(static_cast<pid_t>(started_.pid), SIGKILL);
  EXPECT_TRUE(ends(started_.pid));
  Child child([this](const Peer::Line&) {
    if (!views_->good()) ::_exit(1);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::signal(SIGSEGV, SIG_DFL);
      ::_exit(views_->good() ? 1 : 2);
    }
    const int status = wait_for(pid);
    ::_exit(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV && views_->good() ? 0 : 1);
  });
  EXPECT_EQ(child.wait_status(), 0);
}

// ------------------------------------------------------------------------------------- threads

TEST_F(Fork, WhileAnotherThreadCommits) {
  std::atomic<bool> done{false};
  std::thread writer([&] {
    Session own(worker::attach("shop"));
    while (!done.load()) put(own, 'w');
  });
  constexpr int kForks = 20;
  for (int i = 0; i < kForks; ++i) {
    Child child([this](const Peer::Line&) {
      for (int look = 0; look < 20; ++look) {
        if (!views_->good()) ::_exit(1);
      }
    });
    if (i == kForks - 1) views_->release();
    EXPECT_EQ(child.wait_status(), 0);
  }
  done.store(true);
  writer.join();
}

TEST_F(Fork, FromSeveralThreads) {
  const auto work = [this] {
    for (int i = 0; i < 10; ++i) {
      const pid_t pid = ::fork();
      if (pid == 0) ::_exit(views_->good() ? 0 : 1);
      EXPECT_EQ(wait_for(pid), 0);
    }
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_TRUE(spares_become(1));
}

// -------------------------------------------------------------------------------- no fixed table

TEST_F(Fork, DescriptorsThatTheProgramClosedAreNotClosedAgain) {
  // A daemon closes whatever is open, and its own files get the same numbers.
  const Child child([this](const Peer::Line& line) {
    const auto keep = static_cast<unsigned>(line.fd());
    ::syscall(SYS_close_range, 3u, keep - 1, 0u);
    ::syscall(SYS_close_range, keep + 1, ~0u, 0u);
    std::vector<int> own;
    for (int i = 0; i < 64; ++i) own.push_back(::open("/dev/null", O_RDWR));
    const pid_t pid = ::fork();
    const bool all = std::all_of(own.begin(), own.end(),
                                 [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; });
    if (pid == 0) ::_exit(all ? 0 : 1);
    const bool grandchild = wait_for(pid) == 0;
    views_.reset();
    session_.reset();
    const bool still = std::all_of(own.begin(), own.end(),
                                   [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; });
    line.say(grandchild && still ? 'y' : 'n');
    line.hear();
  });
  EXPECT_EQ(child.ask('?'), 'y');
}

TEST_F(Fork, NothingOfManySessionsIsLeftInAChild) {
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
        closed = closed && ::mmap(at, shm::kPageBytes, PROT_NONE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
                               MAP_FAILED;
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
