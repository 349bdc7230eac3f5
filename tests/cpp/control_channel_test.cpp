#include "shm/control_channel.h"
#include "shm/layout.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cstring>
#include <random>
#include <vector>

#include "shm/control_message.h"
#include "tests/cpp/coordinator_harness.h"

namespace theus::shm {
namespace {

using testing::open_descriptors;

Hello some_hello() {
  return {{0x1234, "layout 1", "glibc 2.36", 4026531836, 4242, 987654}, Role::kWorker};
}

class ControlChannel : public ::testing::Test {
 protected:
  ControlChannel() { std::tie(left_, right_) = make_control_pair(); }

  Received pass(const ControlMessage& message, std::initializer_list<int> fds = {}) {
    EXPECT_EQ(send_control(left_.get(), message, fds), Sent::kYes);
    return receive_control(right_.get());
  }
  Received pass_bytes(const void* bytes, std::size_t size) {
    EXPECT_EQ(::send(left_.get(), bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
    return receive_control(right_.get());
  }

  OwnedFd left_;
  OwnedFd right_;
};

TEST_F(ControlChannel, CarriesHelloWithItsDescriptor) {
  const Hello sent = some_hello();
  Received received = pass(sent, {right_.get()});
  ASSERT_EQ(received.what, Received::What::kMessage) << received.why;
  const auto& hello = std::get<Hello>(received.message);
  EXPECT_EQ(hello.identity.stamp, sent.identity.stamp);
  EXPECT_EQ(hello.identity.layout, sent.identity.layout);
  EXPECT_EQ(hello.identity.libc, sent.identity.libc);
  EXPECT_EQ(hello.identity.pid_namespace, sent.identity.pid_namespace);
  EXPECT_EQ(hello.identity.pid, sent.identity.pid);
  EXPECT_EQ(hello.identity.start_time, sent.identity.start_time);
  EXPECT_EQ(hello.role, sent.role);
  ASSERT_EQ(received.fds.size(), 1u);
  EXPECT_EQ(::fcntl(received.fds[0].get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(ControlChannel, CarriesEveryKind) {
  const int fd = right_.get();
  const Tenancy tenancy{7, 99};
  const std::vector<std::pair<ControlMessage, std::size_t>> all = {
      {some_hello(), 1},
      {Confirm{5}, 0},
      {Detach{}, 0},
      {Stuck{6}, 0},
      {Stop{}, 0},
      {Proceed{5}, 0},
      {Welcome{3, 4, 5, 6}, 3},
      {Refusal{Reason::kFull, "full"}, 0},
      {Stopping{}, 2},
      {Ready{}, 0},
      {Admitted{tenancy, 8, 9}, 2},
      {Welcomed{tenancy}, 0},
      {Detached{tenancy}, 0},
      {Dropped{tenancy}, 0},
      {Acknowledged{tenancy, true}, 0},
      {Started{1, 2}, 0},
      {Failed{{Reason::kNameTaken, "taken"}}, 0},
      {Reserve{true}, 1},
      {Reserved{tenancy}, 0},
      {Adopt{}, 1},
      {Adopted{tenancy, 8, 9}, 1},
  };
  ASSERT_EQ(all.size(), std::variant_size_v<ControlMessage>);
  const std::vector<int> fds(kControlFdsMax, fd);
  for (const auto& [message, count] : all) {
    ASSERT_EQ(send_control(left_.get(), message, std::span(fds).first(count)), Sent::kYes);
    const Received received = receive_control(right_.get());
    ASSERT_EQ(received.what, Received::What::kMessage)
        << control_name(message) << ": " << received.why;
    EXPECT_EQ(received.message.index(), message.index());
    EXPECT_EQ(encode_control(received.message), encode_control(message));
    EXPECT_EQ(received.fds.size(), count);
  }
}

TEST_F(ControlChannel, TellsNothingFromEndOfFile) {
  EXPECT_EQ(receive_control(right_.get()).what, Received::What::kNothing);
  left_.reset();
  EXPECT_EQ(receive_control(right_.get()).what, Received::What::kClosed);
  EXPECT_EQ(send_control(right_.get(), Detach{}), Sent::kGone);
}

TEST_F(ControlChannel, WaitsNoLongerThanAsked) {
  EXPECT_EQ(await_control(right_.get(), monotonic_ns() + 1'000'000).what,
            Received::What::kNothing);
}

TEST_F(ControlChannel, ReadsWhatWasSentBeforeAReset) {
  // Closing with messages unread resets the connection; what the closing side said comes first.
  ASSERT_EQ(send_control(right_.get(), Proceed{1}), Sent::kYes);
  ASSERT_EQ(send_control(left_.get(), Detach{}), Sent::kYes);
  left_.reset();
  const Received received = receive_control(right_.get());
  ASSERT_EQ(received.what, Received::What::kMessage);
  EXPECT_TRUE(std::holds_alternative<Detach>(received.message));
  EXPECT_EQ(receive_control(right_.get()).what, Received::What::kClosed);
}

TEST_F(ControlChannel, NeverBlocksOnAPeerThatDoesNotRead) {
  constexpr int kEnough = 100'000;
  int sent = 0;
  while (sent < kEnough && send_control(left_.get(), Detach{}) == Sent::kYes) {
    ++sent;
  }
  EXPECT_LT(sent, kEnough);
}

TEST_F(ControlChannel, RefusesOversizedAndEmptyPackets) {
  const std::vector<char> large(kControlBytesMax + 8, 'x');
  EXPECT_EQ(pass_bytes(large.data(), large.size()).what, Received::What::kDamaged);
  EXPECT_EQ(pass_bytes("", 0).what, Received::What::kDamaged);
  EXPECT_EQ(pass_bytes("odd", 3).what, Received::What::kDamaged);
  EXPECT_EQ(pass(Detach{}).what, Received::What::kMessage) << "usable all the same";
}

TEST_F(ControlChannel, RefusesWrongNumbersOfDescriptorsAndLosesNone) {
  const std::size_t before = open_descriptors();
  EXPECT_EQ(pass(some_hello()).what, Received::What::kDamaged) << "none";
  const int fd = right_.get();
  EXPECT_EQ(pass(Detach{}, {fd}).what, Received::What::kDamaged) << "one too many";
  EXPECT_EQ(pass(Detach{}, {fd, fd, fd, fd}).what, Received::What::kDamaged);
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(ControlChannel, RefusesMoreDescriptorsThanAnyMessageHas) {
  const std::size_t before = open_descriptors();
  constexpr std::size_t kMany = 64;
  std::vector<int> fds(kMany, right_.get());
  std::vector<char> control(CMSG_SPACE(kMany * sizeof(int)));
  std::vector<std::byte> bytes = encode_control(Detach{});
  iovec content{bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(kMany * sizeof(int));
  std::memcpy(CMSG_DATA(part), fds.data(), kMany * sizeof(int));
  ASSERT_GT(::sendmsg(left_.get(), &header, MSG_NOSIGNAL), 0);
  EXPECT_EQ(receive_control(right_.get()).what, Received::What::kDamaged);
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(ControlChannel, SaysWhenThereIsNoRoomForDescriptors) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer itself needs descriptors to look at an object's type";
#endif
  ASSERT_EQ(send_control(left_.get(), some_hello(), {right_.get()}), Sent::kYes);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const OwnedFd next(::fcntl(right_.get(), F_DUPFD_CLOEXEC, 0));
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(next.get()) + 1;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Received received = receive_control(right_.get());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_EQ(received.what, Received::What::kNoRoom);
  EXPECT_TRUE(std::holds_alternative<Hello>(received.message)) << "whose it was is known";
}

TEST_F(ControlChannel, CutsLongTextsAndCleansThem) {
  Received received = pass(Refusal{Reason::kOther, std::string(10'000, 'y')});
  ASSERT_EQ(received.what, Received::What::kMessage) << received.why;
  EXPECT_EQ(std::get<Refusal>(received.message).text.size(), kControlTextMax);
  received = pass(Refusal{Reason::kOther, "a\x1b[2Jb\nc"});
  ASSERT_EQ(received.what, Received::What::kMessage);
  EXPECT_EQ(std::get<Refusal>(received.message).text, "a?[2Jb?c");
}

TEST_F(ControlChannel, RefusesSlotsThatCannotBe) {
  EXPECT_EQ(pass(Dropped{{kMaxSlots, 1}}).what, Received::What::kDamaged);
  EXPECT_EQ(pass(Dropped{{kMaxSlots - 1, 1}}).what, Received::What::kMessage);
}

// A fixed seed: a failure can be repeated.
TEST(ControlMessageFuzz, SurvivesRandomBytes) {
  std::mt19937_64 random(20240501);
  constexpr int kRounds = 20'000;
  std::string why;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::byte> bytes(random() % (kControlBytesMax / 8) * 8);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    if (bytes.size() >= 16 && round % 2 == 0) {
      // One segment of the right size, so that the decoder gets past the frame.
      const std::uint32_t frame[2] = {0, static_cast<std::uint32_t>(bytes.size() / 8 - 1)};
      std::memcpy(bytes.data(), frame, sizeof(frame));
    }
    decode_control(bytes, &why);
  }
}

TEST(ControlMessageFuzz, SurvivesDamagedMessages) {
  std::mt19937_64 random(20240502);
  constexpr int kRounds = 40'000;
  const std::vector<std::vector<std::byte>> honest = {
      encode_control(some_hello()), encode_control(Refusal{Reason::kFull, "no slot left"}),
      encode_control(Admitted{{3, 4}, 5, 6}), encode_control(Welcome{1, 2, 3, 4})};
  std::string why;
  int understood = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::byte> bytes = honest[static_cast<std::size_t>(round) % honest.size()];
    const std::uint64_t changes = 1 + random() % 4;
    for (std::uint64_t i = 0; i < changes; ++i) {
      bytes[random() % bytes.size()] ^= static_cast<std::byte>(1u << random() % 8);
    }
    if (random() % 8 == 0) {
      bytes.resize(random() % bytes.size() / 8 * 8);
    }
    if (const auto message = decode_control(bytes, &why)) {
      ++understood;
      encode_control(*message);
    }
  }
  EXPECT_GT(understood, 0);
  EXPECT_LT(understood, kRounds);
}

}  // namespace
}  // namespace theus::shm
