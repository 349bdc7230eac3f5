#include "tools/top/watched.h"

#include <dirent.h>
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <system_error>
#include <variant>

#include "shm/control_channel.h"
#include "shm/process.h"
#include "shm/rendezvous.h"
#include "shm/runtime_directory.h"

namespace theus::top {
namespace {

std::uint64_t unix_now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// None when the process has ended already.
shm::OwnedFd pidfd_if_running(std::uint32_t pid) {
  if (pid == 0) return shm::OwnedFd();
  try {
    return shm::open_pidfd(pid);
  } catch (const std::system_error&) {  // ESRCH; other reasons leave us as little to watch
    return shm::OwnedFd();
  }
}

bool runs(const shm::OwnedFd& pidfd) {
  if (!pidfd) return false;
  pollfd entry{pidfd.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 0;
}

shm::Admission admitted(const std::string& name, std::uint64_t patience_ns) {
  try {
    auto joined = shm::join(name, shm::Role::kObserver, shm::monotonic_ns() + patience_ns);
    if (auto* admission = std::get_if<shm::Admission>(&joined)) return std::move(*admission);
    const shm::Refusal& refusal = std::get<shm::Refusal>(joined);
    if (refusal.reason == shm::Reason::kNotFound) throw NotFound(refusal.text);
    throw CannotWatch(refusal.text);
  } catch (const shm::RendezvousError& error) {
    throw CannotWatch(error.what());
  } catch (const std::system_error& error) {
    throw CannotWatch("cannot reach the coordinator '" + name + "': " + error.what());
  }
}

std::unique_ptr<shm::Space> mapped(const shm::Admission& admission) {
  try {
    return std::make_unique<shm::Space>(admission.segments, shm::Access::kObserver);
  } catch (const std::exception& error) {
    throw CannotWatch(error.what());
  }
}

}  // namespace

std::vector<std::string> running_names() {
  constexpr std::string_view kSuffix = ".sock";
  constexpr unsigned kConnectMs = 1000;
  std::vector<std::string> names;
  try {
    const shm::RuntimeDirectory directory = shm::open_runtime_directory();
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.path.c_str()), ::closedir);
    if (!stream) {
      throw CannotWatch("the runtime directory " + directory.path + " cannot be read");
    }
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string_view file(entry->d_name);
      if (file.size() <= kSuffix.size() || !file.ends_with(kSuffix)) continue;
      const std::string name(file.substr(0, file.size() - kSuffix.size()));
      try {
        // A socket that nobody listens at is a leftover.
        shm::connect_to(directory.socket_address(name), kConnectMs);
        names.push_back(name);
      } catch (const std::system_error& error) {
        if (error.code().value() == EAGAIN) names.push_back(name);  // busy, so it runs
      }
    }
  } catch (const shm::RendezvousError& error) {
    throw CannotWatch(error.what());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Watched::Watched(std::string name, std::uint64_t patience_ns) : name_(std::move(name)) {
  const shm::Admission admission = admitted(name_, patience_ns);
  space_ = mapped(admission);
  coordinator_pid_ = admission.coordinator_pid;
  supervisor_pid_ = admission.supervisor_pid;
  coordinator_ = pidfd_if_running(coordinator_pid_);
  supervisor_ = pidfd_if_running(supervisor_pid_);
}

Picture Watched::look() {
  Picture picture = observation_.see(take_sample(*space_, shm::monotonic_ns()), unix_now_ns());
  picture.name = printable(name_.data(), name_.size());
  picture.supervisor_pid = runs(supervisor_) ? supervisor_pid_ : 0;
  picture.restarting = !runs(coordinator_);
  for (WorkerRow& row : picture.workers) {
    const std::uint32_t pid = row.sample.pid;
    row.state = row.sample.leaving ? "leaving" : process_state(shm::thread_state(pid, pid));
  }
  return picture;
}

bool Watched::ended() {
  // Whoever took over has written its pid into shared memory: a number, to be checked.
  const std::uint32_t pid = space_->header().coordinator_pid.load(std::memory_order_acquire);
  if (pid != coordinator_pid_) {
    coordinator_pid_ = pid;
    coordinator_ = pidfd_if_running(pid);
  }
  return !runs(coordinator_) && !runs(supervisor_);
}

}  // namespace theus::top
