#include "worker/connection.h"

#include <poll.h>
#include <sys/random.h>

#include <cerrno>
#include <exception>
#include <system_error>
#include <utility>
#include <variant>

#include "shm/control_channel.h"
#include "shm/rendezvous.h"
#include "shm/runtime_directory.h"
#include "worker/launch.h"

namespace theus::worker {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
// Far more than a restart of the coordinator or the fencing of a stuck lock holder takes.
constexpr std::uint64_t kAttachLimit = 10 * kSecond;
constexpr std::uint64_t kStartLimit = 10 * kSecond;
constexpr int kRetryMs = 5;

[[noreturn]] void raise(const shm::Refusal& refusal) {
  switch (refusal.reason) {
    case shm::Reason::kNotFound:
      throw CoordinatorNotFound(refusal.text);
    case shm::Reason::kMismatch:
      throw VersionMismatch(refusal.text);
    default:
      throw Error(refusal.text);
  }
}

// Runs what may fail for reasons that the layer below states in its own exceptions.
template <class Work>
auto translated(Work work) {
  try {
    return work();
  } catch (const shm::RendezvousError& error) {
    throw Error(error.what());
  } catch (const std::system_error& error) {
    throw Error(error.what());
  }
}

std::string unique_name() {
  std::uint64_t number = 0;
  ssize_t got = -1;
  do {
    got = ::getrandom(&number, sizeof(number), 0);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<ssize_t>(sizeof(number))) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  std::string name = "private-";
  for (int shift = 60; shift >= 0; shift -= 4) {
    name += "0123456789abcdef"[(number >> shift) & 15];
  }
  return name;
}

Started started_by_another(const std::string& name, const shm::Admission& admission) {
  Started started;
  started.name = name;
  started.pid = admission.coordinator_pid;
  started.supervisor_pid = admission.supervisor_pid;
  return started;
}

}  // namespace

std::string socket_path(const std::string& name) {
  return translated([&] {
    shm::check_name(name);
    return shm::open_runtime_directory().socket_path(name);
  });
}

Attachment attach(const std::string& name) {
  return translated([&] {
    auto result = shm::join(name, shm::Role::kWorker, shm::monotonic_ns() + kAttachLimit);
    if (const auto* refusal = std::get_if<shm::Refusal>(&result)) {
      raise(*refusal);
    }
    auto& admission = std::get<shm::Admission>(result);
    Attachment attachment;
    attachment.segments = std::move(admission.segments);
    attachment.slot = admission.slot;
    attachment.control_fd = admission.control.release();
    attachment.coordinator_pid = admission.coordinator_pid;
    attachment.supervisor_pid = admission.supervisor_pid;
    attachment.name = name;
    return attachment;
  });
}

bool report_stuck(const Attachment& attachment, std::uint64_t lock_sequence) {
  if (attachment.control_fd < 0) {
    return false;
  }
  shm::alarm_supervisor(attachment.supervisor_pid);
  try {
    return shm::send_control(attachment.control_fd, shm::Stuck{lock_sequence}) != shm::Sent::kGone;
  } catch (const std::exception&) {  // out of memory: the next report will do
    return true;
  }
}

bool announce_detach(int control_fd) {
  try {
    return shm::send_control(control_fd, shm::Detach{}) != shm::Sent::kGone;
  } catch (const std::exception&) {  // then the slot waits for this process's end
    return false;
  }
}

bool coordinator_gone(int control_fd) {
  // poll rather than a read: a restarted coordinator may have sent its welcome a second time, and
  // that is nobody's to read.
  pollfd entry{control_fd, POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) == 1 &&
         (entry.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

Started start_coordinator(const StartOptions& given) {
  return translated([&] {
    StartOptions options = given;
    if (options.name.empty()) {
      options.name = unique_name();
    }
    shm::check_name(options.name);
    const std::uint64_t deadline = shm::monotonic_ns() + kStartLimit;
    for (;;) {  // bounded by the deadline
      auto launched = launch(options, deadline);
      if (auto* started = std::get_if<Started>(&launched)) {
        return std::move(*started);
      }
      const shm::Refusal& taken = std::get<shm::Refusal>(launched);
      if (taken.reason != shm::Reason::kNameTaken) {
        raise(taken);
      }
      // Whoever has the name may not be listening yet, or be about to end.
      auto joined = shm::join(options.name, shm::Role::kObserver, deadline);
      if (const auto* admission = std::get_if<shm::Admission>(&joined)) {
        return started_by_another(options.name, *admission);
      }
      const shm::Refusal& refusal = std::get<shm::Refusal>(joined);
      if (refusal.reason != shm::Reason::kNotFound) {
        raise(refusal);
      }
      if (shm::monotonic_ns() >= deadline) {
        raise(taken);
      }
      ::poll(nullptr, 0, kRetryMs);
    }
  });
}

void stop_coordinator(const std::string& name, double timeout_s) {
  translated([&] {
    constexpr double kLongest = 1e6;
    const double bounded = timeout_s > 0 ? (timeout_s < kLongest ? timeout_s : kLongest) : 0;
    const auto limit = static_cast<std::uint64_t>(bounded * 1e9);
    if (const auto refusal = shm::request_stop(name, shm::monotonic_ns() + limit)) {
      raise(*refusal);
    }
  });
}

}  // namespace theus::worker
