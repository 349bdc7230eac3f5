#include "tests/cpp/fork_harness.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include "shm/arbiter.h"
#include "shm/control_channel.h"

namespace theus::testing {

using worker::Session;
using worker::Snapshot;
using worker::Transaction;

namespace {
constexpr std::size_t kBytes = 200'000;
}  // namespace

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

Views::Views(Session& its_session, char its_fill)
    : session(its_session), fill(its_fill), snapshot(std::make_unique<Snapshot>(session)) {
  seen = read(*snapshot, {"x"});
  pin = session.pin_block(seen.block);
}

bool Views::good() const {
  const std::string expected(kBytes, fill);
  return (!pin || seen.bytes() == expected) &&
         (!snapshot || read(*snapshot, {"x"}).bytes() == expected);
}

void Views::release() {
  if (pin) session.unpin_block(*std::exchange(pin, std::nullopt));
  snapshot.reset();
}

Child::Child(const std::function<void(const Peer::Line&)>& body) {
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

void Child::kill_and_reap() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    wait_for(std::exchange(pid_, -1));
  }
}

int Child::wait_status() { return wait_for(std::exchange(pid_, -1)); }

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

void ForkTest::SetUp() {
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

void ForkTest::TearDown() {
  views_.reset();
  session_.reset();
  CoordinatorTest::TearDown();
}

void ForkTest::kill_coordinator() {
  const std::uint32_t pid = space().header().coordinator_pid.load();
  ::kill(static_cast<pid_t>(pid), SIGKILL);
  EXPECT_TRUE(ends(pid));
}

bool ForkTest::serves_again(std::uint32_t than) {
  return eventually([&] { return space().header().coordinator_pid.load() != than; });
}

}  // namespace theus::testing
