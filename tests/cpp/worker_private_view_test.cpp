// Private views of committed values: nothing is copied until it is written, and nobody else sees
// it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/cpp/fork_harness.h"
#include "worker/private_view.h"

namespace theus::testing {
namespace {

using worker::PrivateView;
using worker::Session;
using worker::Snapshot;

std::string text(const PrivateView& view) { return {view.data(), view.size()}; }

class WorkerPrivateView : public ::testing::Test {
 protected:
  // A view of what is at "x", which needs no snapshot any more.
  std::unique_ptr<PrivateView> view() {
    Snapshot snapshot(*session);
    return std::make_unique<PrivateView>(*session, read(snapshot, {"x"}));
  }
  void put_bytes(const std::string& bytes) {
    commit(*session, [&](worker::Transaction& t) { t.put_bytes(at(t, {"x"}), bytes); });
  }
  std::string committed() {
    Snapshot snapshot(*session);
    return std::string(read(snapshot, {"x"}).bytes());
  }

  World world{64ull << 20};
  std::unique_ptr<Session> session = world.attach();
};

TEST_F(WorkerPrivateView, ShowsTheBytesAndKeepsThem) {
  put(*session, 'x');
  const auto mine = view();
  const std::string before = text(*mine);
  EXPECT_EQ(before, committed());
  overwrite_everything(*session);
  EXPECT_EQ(text(*mine), before);
}

TEST_F(WorkerPrivateView, NobodyElseSeesAWrite) {
  put(*session, 'x');
  const auto mine = view(), other = view();
  const std::string before = committed();
  for (std::size_t i = 0; i < mine->size(); i += 1000) mine->data()[i] = 'w';
  EXPECT_EQ(committed(), before);
  EXPECT_EQ(text(*other), before);
  EXPECT_EQ(std::string(mine->original(), mine->size()), before);
  EXPECT_EQ(mine->data()[3000], 'w');
  overwrite_everything(*session);
  EXPECT_EQ(mine->data()[3000], 'w');
  EXPECT_EQ(mine->data()[3001], 'x') << "of a page that was copied";
}

TEST_F(WorkerPrivateView, TellsWhatIsUnchanged) {
  for (const std::size_t size : {std::size_t{100'000}, std::size_t{9'000'001}}) {
    put_bytes(std::string(size, 'x'));
    const auto mine = view();
    EXPECT_TRUE(mine->unchanged(0, size)) << size;
    const std::size_t last = size - 1;
    mine->data()[last] = 'w';
    EXPECT_FALSE(mine->unchanged(0, size)) << size;
    EXPECT_TRUE(mine->unchanged(0, last)) << "the rest of that page, " << size;
    mine->data()[last] = 'x';
    EXPECT_TRUE(mine->unchanged(0, size)) << "written back, " << size;
    mine->data()[0] = 'w';
    EXPECT_FALSE(mine->unchanged(0, size)) << size;
    EXPECT_TRUE(mine->unchanged(1, last)) << size;
    EXPECT_TRUE(mine->unchanged(size, 0));
    EXPECT_FALSE(mine->unchanged(1, size)) << "more than there is";
  }
}

TEST_F(WorkerPrivateView, EachPageIsLookedAt) {
  constexpr std::size_t kSize = 4 << 20;
  put_bytes(std::string(kSize, 'x'));
  const auto mine = view();
  for (std::size_t i = 0; i < kSize; i += 5003) {
    mine->data()[i] = 'w';
    ASSERT_FALSE(mine->unchanged(0, kSize)) << i;
    mine->data()[i] = 'x';
  }
  EXPECT_TRUE(mine->unchanged(0, kSize));
}

TEST_F(WorkerPrivateView, LetsGoAtItsEnd) {
  put(*session, 'x');
  auto first = view(), second = view(), third = view();
  put(*session, 'y');
  EXPECT_GT(retained(*session), 0u);
  second.reset();
  first.reset();
  EXPECT_GT(retained(*session), 0u);
  third.reset();
  EXPECT_EQ(retained(*session), 0u);
}

TEST_F(WorkerPrivateView, RefusesWhatIsNoBlock) {
  put_bytes("short");
  Snapshot snapshot(*session);
  EXPECT_THROW(PrivateView(*session, read(snapshot, {"x"})), worker::Error);
  worker::Value elsewhere;
  elsewhere.data = "elsewhere";
  elsewhere.size = 9;
  elsewhere.block = 1;
  EXPECT_THROW(PrivateView(*session, elsewhere), worker::Error);
}

TEST_F(WorkerPrivateView, SaysWhenThereIsNoPinLeft) {
  put(*session, 'x');
  std::vector<std::uint32_t> pins;
  {
    Snapshot snapshot(*session);
    const std::uint64_t block = read(snapshot, {"x"}).block;
    while (pins.size() < shm::kBlockPinsPerDesk) pins.push_back(session->pin_block(block));
  }
  EXPECT_THROW(view(), worker::Error);
  session->unpin_block(pins[0]);
  EXPECT_EQ(text(*view()), committed());
  EXPECT_EQ(text(*view()), committed()) << "its pin came back";
}

class ForkPrivateView : public ForkTest {};

TEST_F(ForkPrivateView, AChildKeepsIt) {
  auto mine = std::make_unique<PrivateView>(*session_, views_->seen);
  mine->data()[0] = 'w';
  Child child([&](const Peer::Line& line) {
    line.hear();
    std::string expected(mine->size(), 'x');
    expected[0] = 'w';
    const bool whole = text(*mine) == expected;
    mine->data()[5000] = 'c';
    mine.reset();
    line.say(whole ? 'y' : 'n');
  });
  mine->data()[1] = 'p';
  mine.reset();
  views_->release();
  overwrite_everything(*session_);
  EXPECT_EQ(child.ask('v'), 'y');
}

TEST(ForkPrivateViewAlone, WithoutASlotTheChildCannotReadIt) {
  World world;
  Session session(world.attachment(world.admit(::getpid())));
  put(session, 'x');
  const Views views(session, 'x');
  const PrivateView first(session, views.seen);
  auto second = std::make_unique<PrivateView>(session, views.seen);
  const PrivateView third(session, views.seen);
  for (const char* bytes : {first.data(), second->data(), third.data()}) {
    const pid_t looking = ::fork();
    if (looking == 0) {
      ::signal(SIGSEGV, SIG_DFL);
      ::_exit(bytes[7] == 'x' ? 1 : 2);
    }
    const int status = wait_for(looking);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
  }
  const pid_t leaving = ::fork();
  if (leaving == 0) {
    second.reset();
    ::_exit(0);
  }
  EXPECT_EQ(wait_for(leaving), 0);
}

}  // namespace
}  // namespace theus::testing
