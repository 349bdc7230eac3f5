#include "worker/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "shm/control_channel.h"
#include "shm/owned_fd.h"

namespace theus::worker {
namespace {

// Where the new program finds its end of the socket pair; options.h of the coordinator has the
// option that names it.
constexpr int kStarterFd = 3;

void check(int error, const char* what) {
  if (error != 0) {
    throw std::system_error(error, std::generic_category(), what);
  }
}

class FileActions {
 public:
  FileActions() { check(::posix_spawn_file_actions_init(&actions_), "posix_spawn_file_actions"); }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;

  void open_null(int fd, int mode) {
    check(::posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null", mode, 0), "/dev/null");
  }
  void duplicate(int from, int to) {
    check(::posix_spawn_file_actions_adddup2(&actions_, from, to), "dup2");
  }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

class Attributes {
 public:
  Attributes() {
    check(::posix_spawnattr_init(&attributes_), "posix_spawnattr_init");
    // An own session, so that Ctrl-C here does not reach it; and none of our signal settings:
    // Python ignores SIGPIPE, and a thread may have blocked SIGTERM.
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    check(::posix_spawnattr_setflags(
              &attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF),
          "posix_spawnattr_setflags");
  }
  ~Attributes() { ::posix_spawnattr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

std::vector<std::string> arguments(const StartOptions& options) {
  std::vector<std::string> words = {options.executable, "--starter-fd", std::to_string(kStarterFd)};
  if (options.capacity_bytes != 0) {
    words.insert(words.end(), {"--capacity", std::to_string(options.capacity_bytes)});
  }
  if (options.embedded) {
    words.emplace_back("--embedded");
  }
  if (!options.log_path.empty()) {
    words.insert(words.end(), {"--log", options.log_path});
  }
  words.insert(words.end(), {"--", options.name});
  return words;
}

pid_t spawn(const StartOptions& options, int channel) {
  FileActions actions;
  actions.open_null(STDIN_FILENO, O_RDONLY);
  actions.open_null(STDOUT_FILENO, O_WRONLY);
  if (options.embedded) {
    actions.open_null(STDERR_FILENO, O_WRONLY);
  }
  actions.duplicate(channel, kStarterFd);
  const Attributes attributes;
  std::vector<std::string> words = arguments(options);
  std::vector<char*> argv;
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, options.executable.c_str(), actions.get(), attributes.get(),
                                  argv.data(), ::environ);
  if (error != 0) {
    throw Error("cannot start the coordinator " + options.executable + ": " + std::strerror(error));
  }
  return pid;
}

// The first process ends as soon as it has made the second; nothing else may be waited for here.
// Another thread of the program may have been faster, or SIGCHLD be ignored: then there is no
// status, and no harm.
int reap(pid_t pid) {
  int status = 0;
  pid_t got = -1;
  do {
    got = ::waitpid(pid, &status, 0);
  } while (got < 0 && errno == EINTR);
  return got == pid ? status : 0;
}

std::string describe_early_end(const StartOptions& options, int status) {
  std::string text = "the coordinator " + options.executable + " ended before it was ready";
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    text += " (exit status " + std::to_string(WEXITSTATUS(status)) + ")";
  } else if (WIFSIGNALED(status)) {
    text += " (signal " + std::to_string(WTERMSIG(status)) + ")";
  }
  return text + "; run it by hand to see why";
}

}  // namespace

std::variant<Started, shm::Refusal> launch(const StartOptions& options, std::uint64_t deadline_ns) {
  auto [ours, theirs] = shm::make_control_pair();
  // Out of the way of the number it will have: dup2 onto itself would leave it CLOEXEC.
  shm::OwnedFd channel(::fcntl(theirs.get(), F_DUPFD_CLOEXEC, 10));
  if (!channel) {
    throw std::system_error(errno, std::generic_category(), "fcntl");
  }
  theirs.reset();
  const pid_t pid = spawn(options, channel.get());
  channel.reset();
  // The first process only forks, so this is short even when the coordinator is slow to start.
  const int status = reap(pid);
  shm::Received received = shm::await_control(ours.get(), deadline_ns);
  if (received.what == shm::Received::What::kNothing) {
    throw Error("the coordinator " + options.executable + " was not ready in time");
  }
  if (received.what != shm::Received::What::kMessage) {
    throw Error(describe_early_end(options, status));
  }
  if (auto* failed = std::get_if<shm::Failed>(&received.message)) {
    return std::move(failed->refusal);
  }
  const auto* started = std::get_if<shm::Started>(&received.message);
  if (started == nullptr) {
    throw Error(std::string("the coordinator's first message was ") +
                shm::control_name(received.message));
  }
  Started result;
  result.name = options.name;
  result.pid = started->coordinator_pid;
  result.supervisor_pid = started->supervisor_pid;
  result.lifeline_fd = options.embedded ? ours.release() : -1;
  return result;
}

}  // namespace theus::worker
