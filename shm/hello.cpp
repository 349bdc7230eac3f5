#include "shm/hello.h"

#include <features.h>
#include <unistd.h>

#include <cerrno>
#include <iomanip>
#include <optional>
#include <sstream>
#include <system_error>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "shm/process.h"
#include "shm/stamp.h"

namespace theus::shm {
namespace {

// The kind comes first: only kinds are compared, for a robust mutex is the same in all versions of
// one C library.
std::string own_libc() {
#ifdef __GLIBC__
  return std::string("glibc ") + gnu_get_libc_version();
#else
  return "a C library other than glibc";
#endif
}

std::string kind_of(const std::string& libc) { return libc.substr(0, libc.find(' ')); }

std::string hex(std::uint64_t number) {
  std::ostringstream text;
  text << "0x" << std::hex << std::setfill('0') << std::setw(16) << number;
  return text.str();
}

}  // namespace

Identity own_identity() {
  const auto pid = static_cast<std::uint32_t>(::getpid());
  const std::optional<std::uint64_t> started = start_time(pid);
  if (!started) {
    throw std::system_error(ENOENT, std::generic_category(), "/proc/self/stat");
  }
  return {layout_stamp(), describe_layout(), own_libc(), pid_namespace(), pid, *started};
}

std::string difference(const Identity& ours, const Identity& theirs) {
  if (kind_of(ours.libc) != kind_of(theirs.libc)) {
    return "the coordinator runs with " + ours.libc + ", process " + std::to_string(theirs.pid) +
           " with " + theirs.libc + ", and their locks do not understand each other";
  }
  if (ours.stamp != theirs.stamp) {
    return "the coordinator was built with layout " + hex(ours.stamp) + " (" + ours.layout +
           "), process " + std::to_string(theirs.pid) + " with layout " + hex(theirs.stamp) +
           " (" + theirs.layout + "); use one version of theus for both";
  }
  if (ours.pid_namespace != theirs.pid_namespace) {
    return "the coordinator runs in PID namespace " + std::to_string(ours.pid_namespace) +
           ", process " + std::to_string(theirs.pid) + " in PID namespace " +
           std::to_string(theirs.pid_namespace) + "; run both in one container";
  }
  return {};
}

std::string disbelief(const Identity& theirs, std::uint32_t peer_pid, int pidfd) {
  if (theirs.pid != peer_pid) {
    return "it calls itself process " + std::to_string(theirs.pid) +
           ", the coordinator sees it as " +
           (peer_pid == 0 ? std::string("none") : "process " + std::to_string(peer_pid)) +
           "; run both in one PID namespace, and attach anew after a fork";
  }
  if (pidfd >= 0 && pid_of_pidfd(pidfd) != peer_pid) {
    return "the pidfd it sent is not that of process " + std::to_string(peer_pid);
  }
  if (start_time(peer_pid) != theirs.start_time) {
    return "process " + std::to_string(peer_pid) + " did not start at " +
           std::to_string(theirs.start_time);
  }
  return {};
}

}  // namespace theus::shm
