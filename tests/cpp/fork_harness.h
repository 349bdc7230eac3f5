// What the tests of forked children run on: a coordinator, a session of the test's with views, and
// children that inherit all of it.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "tests/cpp/coordinator_harness.h"
#include "tests/cpp/harness.h"

namespace theus::testing {

// Commits a large value of nothing but `fill` at "x".
void put(worker::Session& session, char fill);
void reclaim_all(worker::Session& session);
// Uses all memory that is free, again and again: what nothing keeps is overwritten.
void overwrite_everything(worker::Session& session);
// Superseded versions that something still keeps.
std::uint64_t retained(worker::Session& session);

// A snapshot and a held block, each of which must keep showing what it showed: `fill`.
struct Views {
  Views(worker::Session& its_session, char its_fill);
  ~Views() { release(); }
  Views(const Views&) = delete;
  Views& operator=(const Views&) = delete;
  bool good() const;
  void release();

  worker::Session& session;
  char fill;
  std::unique_ptr<worker::Snapshot> snapshot;
  worker::Value seen;
  std::optional<std::uint32_t> pin;
};

// A bare fork, with everything inherited; Peer closes what it inherits.
class Child {
 public:
  explicit Child(const std::function<void(const Peer::Line&)>& body);
  ~Child() { kill_and_reap(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  char ask(char what) const {
    line_->say(what);
    return line_->hear();
  }
  pid_t pid() const { return pid_; }
  void kill_and_reap();
  int wait_status();  // waits for its end; as waitpid gives it

 private:
  pid_t pid_ = -1;
  std::optional<Peer::Line> line_;
};

// 'v' are the views good ('y', 'n')? 'r' release them; anything else: return.
void obey_with_views(const Peer::Line& line, Views& views);

class ForkTest : public CoordinatorTest {
 protected:
  void SetUp() override;
  void TearDown() override;
  const shm::Space& space() { return session_->space(); }
  std::uint32_t spares() { return spares_in_use(space()); }
  bool spares_become(std::uint32_t count) {
    return eventually([&] { return spares() == count; });
  }
  std::unique_ptr<Child> heir() {
    return std::make_unique<Child>(
        [this](const Peer::Line& line) { obey_with_views(line, *views_); });
  }
  void kill_coordinator();
  bool serves_again(std::uint32_t than);  // another than this process

  worker::Started started_;
  std::unique_ptr<worker::Session> session_;
  std::unique_ptr<Views> views_;
};

}  // namespace theus::testing
