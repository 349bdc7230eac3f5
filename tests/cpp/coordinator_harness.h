// What the tests of the coordinator run on: real coordinators in a private runtime directory, and
// worker processes that do what they are told. Every process is ended by id, whatever fails.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shm/owned_fd.h"
#include "shm/rendezvous.h"
#include "shm/space.h"
#include "worker/connection.h"

namespace theus::testing {

inline constexpr std::uint64_t kSecondNs = 1'000'000'000;
// Longer than anything here takes, shorter than the test's own limit.
inline constexpr std::uint64_t kPatienceNs = 20 * kSecondNs;

std::uint64_t deadline_ns();

// True once `condition` holds; false when it does not within kPatienceNs. For state of other
// processes that no descriptor tells about.
bool eventually(const std::function<bool()>& condition);
// True once the descriptor is readable or at end of file.
bool becomes_readable(int fd);

std::size_t open_descriptors();

// A child process of the test. Its body talks to the test by single characters.
class Peer {
 public:
  class Line {  // one side of the conversation
   public:
    explicit Line(shm::OwnedFd fd) : fd_(std::move(fd)) {}
    void say(char what) const;
    char hear() const;  // 0: nothing came, or the other side is gone
    int fd() const { return fd_.get(); }

   private:
    shm::OwnedFd fd_;
  };
  explicit Peer(const std::function<void(const Line&)>& body);
  ~Peer();  // kills and reaps
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  pid_t pid() const { return pid_; }
  const Line& line() const { return line_; }
  void signal(int number) const;
  void kill_and_reap();
  int wait_status();  // waits for its end; as waitpid gives it

 private:
  pid_t pid_ = -1;
  Line line_;
};

// A worker that attaches, says 'a' (or 'x' when it was refused), and then obeys: 'd' detach and say
// 'd', 'c' commit one write and say 'c', 'l' take the arbitration lock, say 'l', let go of it when
// told anything and say 'u', 'w' the same while it changes something under the lock all the time,
// 'p' (after its pid was stopped and continued) say 'p', 'e' exec a program that waits.
std::unique_ptr<Peer> attached_worker(const std::string& name);

class CoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Starts one, embedded unless said otherwise, and keeps its lifeline.
  worker::Started start(const std::string& name, bool embedded = true);
  void drop_lifelines() { lifelines_.clear(); }
  worker::StartOptions options(const std::string& name) const;
  std::string directory() const { return directory_; }  // of sockets; $XDG_RUNTIME_DIR/theus
  std::string log_path() const { return base_ + "/log"; }
  std::string log_text() const;

  shm::Admission observe(const std::string& name);
  // Slots of workers, as the shared memory says; and of forked children, or kept for such.
  static std::uint32_t slots_in_use(const shm::Space& space);
  static std::uint32_t spares_in_use(const shm::Space& space);

  std::string base_;
  std::string directory_;
  std::vector<shm::OwnedFd> lifelines_;
};

// Waits for the end of a process that is not our child. False: it still runs.
bool ends(std::uint32_t pid);
bool ends(int pidfd);
shm::OwnedFd pidfd_of(std::uint32_t pid);

}  // namespace theus::testing
