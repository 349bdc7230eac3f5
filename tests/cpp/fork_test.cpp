// What forked children inherit: views under pins of their own.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cpp/fork_harness.h"

namespace theus::testing {
namespace {

using worker::Session;
using worker::Transaction;

class Fork : public ForkTest {};

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

// What a program serializes its calls and its forks with, as Python does with the GIL.
struct OneAtATime final : worker::WaitHook {
  void* before() noexcept override {
    mutex.unlock();
    return nullptr;
  }
  void after(void*, bool) override { mutex.lock(); }

  std::mutex mutex;
};

TEST_F(Fork, WhileAnotherThreadCommits) {
  OneAtATime gil;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    std::unique_lock<std::mutex> lock(gil.mutex);
    Session own(worker::attach("shop"));
    own.set_wait_hook(&gil);
    while (!done.load()) {
      put(own, 'w');
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
  });
  constexpr int kForks = 20;
  for (int i = 0; i < kForks; ++i) {
    std::unique_lock<std::mutex> lock(gil.mutex);
    Child child([this](const Peer::Line&) {
      for (int look = 0; look < 20; ++look) {
        if (!views_->good()) ::_exit(1);
      }
    });
    if (i == kForks - 1) views_->release();
    lock.unlock();
    EXPECT_EQ(child.wait_status(), 0);
  }
  done.store(true);
  writer.join();
}

TEST_F(Fork, FromSeveralThreads) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer misses the parent's other thread in the child";
#endif
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

}  // namespace
}  // namespace theus::testing
