#include "tests/cpp/coordinator_harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "shm/arbiter.h"
#include "shm/control_channel.h"
#include "shm/journal.h"
#include "shm/process.h"
#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::testing {
namespace {

constexpr int kStepMs = 1;

// Children of this process, whichever of its threads they belong to.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    pid_t pid = 0;
    while (list >> pid) {
      found.push_back(pid);
    }
  }
  return found;
}

int reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

void commit_once(worker::Session& session) {
  worker::Transaction transaction(session);
  transaction.begin(worker::Isolation::kSerializable);
  worker::Entry* entry = transaction.entry(transaction.root(), shm::KeyView("count"));
  const worker::Value& before = transaction.read(entry);
  transaction.put_int(entry,
                      before.kind == worker::Value::Kind::kInt ? before.integer + 1 : 1);
  if (transaction.commit().status != worker::CommitResult::Status::kCommitted) {
    throw std::runtime_error("the commit conflicted");
  }
}

// As the arbiter does with a very large delta: one journalled store after another.
void change_until_told(const shm::Space& space, const Peer::Line& line) {
  shm::StepJournal journal(space);
  journal.begin(shm::kNoVersion);
  shm::Word& hint = space.writable().run_hint;
  pollfd entry{line.fd(), POLLIN, 0};
  while (::poll(&entry, 1, kStepMs) == 0) {
    journal.set(hint, hint.load(std::memory_order_relaxed));
  }
  journal.end();
  line.hear();
}

void obey(const std::string& name, const Peer::Line& line) {
  worker::Attachment attachment;
  try {
    attachment = worker::attach(name);
  } catch (const std::exception&) {
    line.say('x');
    return;
  }
  const std::uint32_t slot = attachment.slot;
  auto session = std::make_unique<worker::Session>(std::move(attachment));
  line.say('a');
  for (;;) {
    switch (const char what = line.hear(); what) {
      case 'd':
        session.reset();
        line.say('d');
        break;
      case 'c':
        commit_once(*session);
        line.say('c');
        break;
      case 'l': {
        shm::Arbiter arbiter(session->space(), slot);
        line.say(arbiter.lock_for(kPatienceNs) ? 'l' : 'x');
        line.hear();
        arbiter.unlock();
        line.say('u');
        break;
      }
      case 'w': {
        shm::Arbiter arbiter(session->space(), slot);
        line.say(arbiter.lock_for(kPatienceNs) ? 'l' : 'x');
        change_until_told(session->space(), line);
        arbiter.unlock();
        line.say('u');
        break;
      }
      case 'p':
        line.say('p');
        break;
      case 'e':
        ::fcntl(line.fd(), F_SETFD, 0);  // so that the test sees its end
        ::execl("/bin/sleep", "sleep", "60", static_cast<char*>(nullptr));
        return;
      default:
        return;
    }
  }
}

}  // namespace

std::uint64_t deadline_ns() { return shm::monotonic_ns() + kPatienceNs; }

bool eventually(const std::function<bool()>& condition) {
  const std::uint64_t deadline = deadline_ns();
  while (!condition()) {
    if (shm::monotonic_ns() >= deadline) {
      return false;
    }
    ::poll(nullptr, 0, kStepMs);
  }
  return true;
}

bool becomes_readable(int fd) {
  pollfd entry{fd, POLLIN | POLLRDHUP, 0};
  int result = 0;
  do {
    result = ::poll(&entry, 1, static_cast<int>(kPatienceNs / 1'000'000));
  } while (result < 0 && errno == EINTR);
  return result == 1;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

void Peer::Line::say(char what) const {
  while (::write(fd_.get(), &what, 1) < 0 && errno == EINTR) {
  }
}

char Peer::Line::hear() const {
  char what = 0;
  ssize_t got = -1;
  if (!becomes_readable(fd_.get())) {
    return 0;
  }
  do {
    got = ::read(fd_.get(), &what, 1);
  } while (got < 0 && errno == EINTR);
  return got == 1 ? what : '\0';
}

Peer::Peer(const std::function<void(const Line&)>& body) : line_(shm::OwnedFd()) {
  auto [ours, theirs] = shm::make_control_pair();
  pid_ = ::fork();
  if (pid_ < 0) {
    throw std::system_error(errno, std::generic_category(), "fork");
  }
  if (pid_ == 0) {
    ::signal(SIGPIPE, SIG_IGN);
    // Nothing of the test's: an inherited lifeline would keep a coordinator up.
    const auto keep = static_cast<unsigned>(theirs.get());
    ::syscall(SYS_close_range, 3u, keep - 1, 0u);
    ::syscall(SYS_close_range, keep + 1, ~0u, 0u);
    ours.release();
    int status = 0;
    try {
      body(Line(std::move(theirs)));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "worker process: %s\n", error.what());
      status = 1;
    }
    ::_exit(status);
  }
  line_ = Line(std::move(ours));
}

Peer::~Peer() { kill_and_reap(); }

void Peer::signal(int number) const { ::kill(pid_, number); }

void Peer::kill_and_reap() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    reap(pid_);
    pid_ = -1;
  }
}

int Peer::wait_status() {
  // A process that does not end by itself is made to, so that the test fails instead of hanging.
  if (!becomes_readable(shm::open_pidfd(static_cast<std::uint32_t>(pid_)).get())) {
    ::kill(pid_, SIGKILL);
  }
  return reap(std::exchange(pid_, -1));
}

std::unique_ptr<Peer> attached_worker(const std::string& name) {
  auto peer = std::make_unique<Peer>([name](const Peer::Line& line) { obey(name, line); });
  EXPECT_EQ(peer->line().hear(), 'a');
  return peer;
}

void CoordinatorTest::SetUp() {
  ::signal(SIGPIPE, SIG_IGN);
  // Coordinators leave their parent; this makes them ours to reap, and to find if a test fails.
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  std::string pattern = "/tmp/theus-test-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  base_ = pattern;
  directory_ = base_ + "/theus";
  ASSERT_EQ(::setenv("XDG_RUNTIME_DIR", base_.c_str(), 1), 0);
}

void CoordinatorTest::TearDown() {
  lifelines_.clear();
  constexpr int kRoundsMax = 100;  // each kill may hand us the grandchildren
  for (int i = 0; i < kRoundsMax; ++i) {
    const std::vector<pid_t> left = children();
    if (left.empty()) {
      break;
    }
    for (const pid_t pid : left) {
      ::kill(pid, SIGKILL);
      reap(pid);
    }
  }
  if (HasFailure()) {
    std::fprintf(stderr, "--- log ---\n%s-----------\n", log_text().c_str());
  }
  std::error_code ignored;
  std::filesystem::remove_all(base_, ignored);
}

worker::StartOptions CoordinatorTest::options(const std::string& name) const {
  worker::StartOptions result;
  result.executable = THEUS_COORDINATOR_EXECUTABLE;
  result.name = name;
  result.capacity_bytes = 64u << 20;
  result.log_path = log_path();
  return result;
}

worker::Started CoordinatorTest::start(const std::string& name, bool embedded) {
  worker::StartOptions chosen = options(name);
  chosen.embedded = embedded;
  const worker::Started started = worker::start_coordinator(chosen);
  if (started.lifeline_fd >= 0) {
    lifelines_.emplace_back(started.lifeline_fd);
  }
  return started;
}

std::string CoordinatorTest::log_text() const {
  std::ifstream file(log_path());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

shm::Admission CoordinatorTest::observe(const std::string& name) {
  auto result = shm::join(name, shm::Role::kObserver, deadline_ns());
  if (const auto* refusal = std::get_if<shm::Refusal>(&result)) {
    throw std::runtime_error(refusal->text);
  }
  return std::move(std::get<shm::Admission>(result));
}

std::uint32_t CoordinatorTest::slots_in_use(const shm::Space& space) {
  std::uint32_t count = 0;
  for (const shm::SlotRecord& slot : space.header().slots) {
    const auto state = static_cast<shm::SlotState>(slot.state.load(std::memory_order_acquire));
    count += state != shm::SlotState::kFree && state != shm::SlotState::kSpare;
  }
  return count;
}

std::uint32_t CoordinatorTest::spares_in_use(const shm::Space& space) {
  std::uint32_t count = 0;
  for (const shm::SlotRecord& slot : space.header().slots) {
    count += slot.state.load(std::memory_order_acquire) ==
             static_cast<std::uint32_t>(shm::SlotState::kSpare);
  }
  return count;
}

shm::OwnedFd pidfd_of(std::uint32_t pid) { return shm::open_pidfd(pid); }

bool ends(int pidfd) { return becomes_readable(pidfd); }

bool ends(std::uint32_t pid) {
  try {
    return ends(shm::open_pidfd(pid).get());
  } catch (const std::system_error&) {
    return true;  // it had ended already
  }
}

}  // namespace theus::testing
