// Who is let in, and what those who are not can do (nothing).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>
#include <vector>

#include "shm/control_channel.h"
#include "shm/hello.h"
#include "shm/process.h"
#include "shm/runtime_directory.h"
#include "tests/cpp/coordinator_harness.h"

namespace theus::testing {
namespace {

using shm::Reason;
using shm::Received;

class CoordinatorAdmission : public CoordinatorTest {
 protected:
  void SetUp() override {
    CoordinatorTest::SetUp();
    started_ = start("shop");
  }
  static shm::OwnedFd dial() {
    return shm::connect_to(shm::open_runtime_directory().socket_address("shop"), 5000);
  }
  static std::variant<shm::Admission, shm::Refusal> hello_as(
      const shm::Identity& identity, shm::Role role = shm::Role::kWorker) {
    return shm::say_hello(dial(), identity, role, deadline_ns());
  }
  // The refusal's text, which must be of this kind.
  static std::string refused(const shm::Identity& identity, Reason reason) {
    const auto result = hello_as(identity);
    const auto* refusal = std::get_if<shm::Refusal>(&result);
    if (refusal == nullptr) {
      ADD_FAILURE() << "was admitted";
      return {};
    }
    EXPECT_EQ(refusal->reason, reason) << refusal->text;
    return refusal->text;
  }
  // The coordinator closes this connection.
  static bool is_dropped(const shm::OwnedFd& socket) {
    for (;;) {
      const Received received = shm::await_control(socket.get(), deadline_ns());
      if (received.what != Received::What::kMessage) {
        return received.what == Received::What::kClosed;
      }
    }
  }
  void expect_still_serving() {
    const auto result = shm::join("shop", shm::Role::kWorker, deadline_ns());
    EXPECT_TRUE(std::holds_alternative<shm::Admission>(result))
        << std::get<shm::Refusal>(result).text;
    EXPECT_EQ(observe("shop").coordinator_pid, started_.pid) << "it was restarted";
  }

  worker::Started started_;
};

TEST_F(CoordinatorAdmission, GivesAWorkerWhatItNeeds) {
  auto result = hello_as(shm::own_identity());
  const auto* admission = std::get_if<shm::Admission>(&result);
  ASSERT_NE(admission, nullptr) << std::get<shm::Refusal>(result).text;
  EXPECT_EQ(admission->coordinator_pid, started_.pid);
  EXPECT_EQ(admission->supervisor_pid, started_.supervisor_pid);
  EXPECT_GE(admission->capacity_bytes, 64u << 20);
  EXPECT_EQ(::fcntl(admission->segments.data_writable, F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_EQ(::fcntl(admission->segments.data_readable, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(admission->segments.desks, F_GETFL) & O_ACCMODE, O_RDWR);
  const shm::Space space(admission->segments, shm::Access::kWorker);
  const shm::SlotRecord& slot = space.header().slots[admission->slot];
  EXPECT_EQ(slot.pid.load(), static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(space.desk(admission->slot).start_time.load(), shm::own_identity().start_time);
  EXPECT_EQ(space.header().coordinator_pid.load(), started_.pid);
}

TEST_F(CoordinatorAdmission, GivesAnObserverNothingToWriteTo) {
  auto result = hello_as(shm::own_identity(), shm::Role::kObserver);
  const auto* admission = std::get_if<shm::Admission>(&result);
  ASSERT_NE(admission, nullptr);
  EXPECT_EQ(admission->segments.data_writable, -1);
  EXPECT_EQ(::fcntl(admission->segments.data_readable, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(admission->segments.desks, F_GETFL) & O_ACCMODE, O_RDONLY);
  const shm::Space space(admission->segments, shm::Access::kObserver);
  EXPECT_EQ(slots_in_use(space), 0u);
}

TEST_F(CoordinatorAdmission, RefusesAnotherLayoutNamingBoth) {
  shm::Identity identity = shm::own_identity();
  identity.stamp ^= 1;
  identity.layout = "layout of tomorrow";
  const std::string text = refused(identity, Reason::kMismatch);
  EXPECT_NE(text.find("layout of tomorrow"), std::string::npos) << text;
  EXPECT_NE(text.find(shm::own_identity().layout), std::string::npos) << text;
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, RefusesAnotherLibc) {
  shm::Identity identity = shm::own_identity();
  identity.libc = "musl 1.2.5";
  const std::string text = refused(identity, Reason::kMismatch);
  EXPECT_NE(text.find("musl 1.2.5"), std::string::npos) << text;
  EXPECT_NE(text.find(shm::own_identity().libc), std::string::npos) << text;
}

TEST_F(CoordinatorAdmission, RefusesAnotherPidNamespace) {
  shm::Identity identity = shm::own_identity();
  identity.pid_namespace += 1;
  const std::string text = refused(identity, Reason::kMismatch);
  EXPECT_NE(text.find(std::to_string(identity.pid_namespace)), std::string::npos) << text;
  EXPECT_NE(text.find(std::to_string(shm::pid_namespace())), std::string::npos) << text;
}

TEST_F(CoordinatorAdmission, RefusesWhoCallsItselfSomebodyElse) {
  shm::Identity identity = shm::own_identity();
  identity.pid += 1;
  refused(identity, Reason::kMismatch);
}

TEST_F(CoordinatorAdmission, RefusesAnotherStartTime) {
  shm::Identity identity = shm::own_identity();
  identity.start_time += 1;
  refused(identity, Reason::kMismatch);
}

TEST_F(CoordinatorAdmission, RefusesAForeignPidfd) {
  const shm::OwnedFd socket = dial();
  const shm::OwnedFd not_ours = pidfd_of(started_.supervisor_pid);
  shm::send_control(socket.get(), shm::Hello{shm::own_identity(), shm::Role::kWorker},
                    {not_ours.get()});
  const Received received = shm::await_control(socket.get(), deadline_ns());
  ASSERT_EQ(received.what, Received::What::kMessage);
  EXPECT_TRUE(std::holds_alternative<shm::Refusal>(received.message));
}

TEST_F(CoordinatorAdmission, RefusesAFileInPlaceOfThePidfd) {
  const shm::OwnedFd socket = dial();
  shm::send_control(socket.get(), shm::Hello{shm::own_identity(), shm::Role::kWorker},
                    {STDERR_FILENO});
  const Received received = shm::await_control(socket.get(), deadline_ns());
  ASSERT_EQ(received.what, Received::What::kMessage);
  EXPECT_TRUE(std::holds_alternative<shm::Refusal>(received.message));
}

TEST_F(CoordinatorAdmission, RefusesAChildWithItsParentsConnection) {
  // The connection was made by the parent, so that is whom SO_PEERCRED names.
  const shm::OwnedFd socket = dial();
  const int number = socket.get();
  // Peer closes all but stdio, so the connection takes the place of stdin.
  const shm::OwnedFd saved(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  ASSERT_EQ(::dup2(number, STDIN_FILENO), STDIN_FILENO);
  Peer child([](const Peer::Line& line) {
    const auto result = shm::say_hello(shm::OwnedFd(STDIN_FILENO), shm::own_identity(),
                                       shm::Role::kWorker, deadline_ns());
    line.say(std::holds_alternative<shm::Refusal>(result) ? 'r' : 'a');
  });
  ::dup2(saved.get(), STDIN_FILENO);
  EXPECT_EQ(child.line().hear(), 'r');
}

TEST_F(CoordinatorAdmission, RefusesAnotherUser) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can be another user";
  }
  // Let the stranger as far as the socket; the coordinator itself has to refuse.
  ASSERT_EQ(::chmod(base_.c_str(), 0711), 0);
  ASSERT_EQ(::chmod(directory_.c_str(), 0711), 0);
  ASSERT_EQ(::chmod((directory_ + "/shop.sock").c_str(), 0666), 0);
  const std::string path = directory_ + "/shop.sock";
  Peer stranger([path](const Peer::Line& line) {
    constexpr uid_t kNobody = 65534;
    if (::setresuid(kNobody, kNobody, kNobody) != 0) {
      return;
    }
    const shm::OwnedFd socket = shm::connect_to(path, 5000);
    const Received received = shm::await_control(socket.get(), deadline_ns());
    const auto* refusal = std::get_if<shm::Refusal>(&received.message);
    line.say(refusal != nullptr && refusal->reason == Reason::kForeign ? 'f' : '?');
  });
  EXPECT_EQ(stranger.line().hear(), 'f');
  ASSERT_EQ(::chmod(directory_.c_str(), 0700), 0);
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, WantsItsNumberBack) {
  const shm::OwnedFd socket = dial();
  const shm::OwnedFd self = pidfd_of(static_cast<std::uint32_t>(::getpid()));
  shm::send_control(socket.get(), shm::Hello{shm::own_identity(), shm::Role::kWorker},
                    {self.get()});
  const Received received = shm::await_control(socket.get(), deadline_ns());
  const auto* proceed = std::get_if<shm::Proceed>(&received.message);
  ASSERT_NE(proceed, nullptr);
  shm::send_control(socket.get(), shm::Confirm{proceed->number ^ 1});
  EXPECT_TRUE(is_dropped(socket));
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, DropsWhoSendsWhatIsNotItsToSend) {
  for (const shm::ControlMessage& message : std::vector<shm::ControlMessage>{
           shm::Confirm{1}, shm::Detach{}, shm::Ready{}, shm::Dropped{{0, 1}},
           shm::Acknowledged{{0, 1}, true}, shm::Stuck{0}}) {
    const shm::OwnedFd socket = dial();
    ASSERT_EQ(shm::send_control(socket.get(), message), shm::Sent::kYes);
    EXPECT_TRUE(is_dropped(socket)) << shm::control_name(message);
  }
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, SurvivesGarbage) {
  const auto bystander = attached_worker("shop");
  std::mt19937_64 random(20240503);
  constexpr int kRounds = 300;
  const std::vector<std::byte> honest =
      shm::encode_control(shm::Hello{shm::own_identity(), shm::Role::kObserver});
  for (int round = 0; round < kRounds; ++round) {
    const shm::OwnedFd socket = dial();
    std::vector<std::byte> bytes = honest;
    if (round % 2 == 0) {
      bytes.resize(random() % (2 * shm::kControlBytesMax));
      for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random());
      }
    } else {
      bytes[random() % bytes.size()] ^= static_cast<std::byte>(1u << random() % 8);
    }
    ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  expect_still_serving();
  bystander->line().say('c');
  EXPECT_EQ(bystander->line().hear(), 'c');
  EXPECT_NE(log_text().find("garbage"), std::string::npos);
}

TEST_F(CoordinatorAdmission, GarbageFromAMemberCostsItsSocketAndNotItsSlot) {
  auto result = hello_as(shm::own_identity());
  auto& admission = std::get<shm::Admission>(result);
  const shm::Space space(admission.segments, shm::Access::kObserver);
  ::send(admission.control.get(), "nonsense", 8, MSG_NOSIGNAL);
  EXPECT_TRUE(is_dropped(admission.control));
  // This process lives, and may be writing.
  expect_still_serving();
  EXPECT_GE(slots_in_use(space), 1u);
}

TEST_F(CoordinatorAdmission, DropsWhoSaysNothing) {
  const shm::OwnedFd silent = dial();
  EXPECT_TRUE(is_dropped(silent));
  EXPECT_NE(log_text().find("did not say hello in time"), std::string::npos);
}

TEST_F(CoordinatorAdmission, AFloodOfOneProcessLeavesRoomForOthers) {
  constexpr int kFlood = 100;
  std::vector<shm::OwnedFd> flood;
  for (int i = 0; i < kFlood; ++i) {
    flood.push_back(dial());
  }
  const auto other = attached_worker("shop");
  EXPECT_NE(log_text().find("too many connections at once"), std::string::npos);
  flood.clear();
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, SaysWhenItHasNoDescriptorsLeft) {
  constexpr rlim_t kFew = 32;
  rlimit before{};
  const auto pid = static_cast<pid_t>(started_.pid);
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few{kFew, before.rlim_max};
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, &few, nullptr), 0);
  const auto result = hello_as(shm::own_identity());
  ASSERT_TRUE(std::holds_alternative<shm::Refusal>(result));
  EXPECT_EQ(std::get<shm::Refusal>(result).reason, Reason::kFull);
  EXPECT_NE(std::get<shm::Refusal>(result).text.find("32"), std::string::npos);
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, &before, nullptr), 0);
  expect_still_serving();
}

TEST_F(CoordinatorAdmission, SaysWhenTheSupervisorHasNoDescriptorsLeft) {
  const auto pid = static_cast<pid_t>(started_.supervisor_pid);
  rlimit before{};
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few{4, before.rlim_max};
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, &few, nullptr), 0);
  const auto result = hello_as(shm::own_identity());
  ASSERT_TRUE(std::holds_alternative<shm::Refusal>(result));
  EXPECT_EQ(std::get<shm::Refusal>(result).reason, Reason::kFull);
  ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, &before, nullptr), 0);
  expect_still_serving();
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) <= 1; })) << "the refused one's is back";
}

TEST_F(CoordinatorAdmission, GivesUpASlotThatItsWorkerDetachedFrom) {
  const shm::Admission eye = observe("shop");
  const shm::Space space(eye.segments, shm::Access::kObserver);
  const auto peer = attached_worker("shop");
  EXPECT_EQ(slots_in_use(space), 1u);
  peer->line().say('d');
  EXPECT_EQ(peer->line().hear(), 'd');
  EXPECT_TRUE(eventually([&] { return slots_in_use(space) == 0; }));
}

TEST_F(CoordinatorAdmission, RefusesWhenAllSlotsAreTaken) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  if (before.rlim_max < 6 * shm::kMaxWorkers) {
    GTEST_SKIP() << "too few descriptors";
  }
  const rlimit all{before.rlim_max, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &all), 0);
  std::vector<shm::OwnedFd> sockets;
  for (std::uint32_t i = 0; i < shm::kMaxWorkers; ++i) {
    auto result = hello_as(shm::own_identity());
    ASSERT_TRUE(std::holds_alternative<shm::Admission>(result)) << i;
    sockets.push_back(std::move(std::get<shm::Admission>(result).control));
  }
  const std::string text = refused(shm::own_identity(), Reason::kFull);
  EXPECT_NE(text.find("1024"), std::string::npos) << text;
  ASSERT_TRUE(worker::announce_detach(sockets.back().get()));
  sockets.pop_back();
  EXPECT_TRUE(eventually([] {
    return std::holds_alternative<shm::Admission>(hello_as(shm::own_identity()));
  }));
}

}  // namespace
}  // namespace theus::testing
