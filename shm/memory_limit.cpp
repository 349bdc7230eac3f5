#include "shm/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

namespace theus::shm {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// First number of a file; nullopt when there is none ("max", absent).
std::optional<std::uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// Value behind `name` in a file of "name value" lines; 0 when absent.
std::uint64_t read_field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t number = 0;
  while (file >> word >> number) {
    if (word == name) return number;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    file.clear();
  }
  return 0;
}

std::uint64_t machine_available() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  std::uint64_t kib = 0;
  while (file >> name >> kib) {
    if (name == "MemAvailable:") return kib * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnlimited;
}

// This process's cgroup v2 path ("/a/b"), empty if there is none.
std::string cgroup_path() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) return line.substr(3);
  }
  return {};
}

}  // namespace

std::uint64_t memory_headroom(std::string* limited_by) {
  std::uint64_t headroom = machine_available();
  if (limited_by != nullptr) *limited_by = "the machine's memory";
  // Every ancestor may have a limit of its own.
  std::string group = cgroup_path();
  for (int depth = 0; depth < 64 && !group.empty() && group != "/"; ++depth) {
    const std::string folder = "/sys/fs/cgroup" + group;
    const auto limit = read_number(folder + "/memory.max");
    const auto usage = read_number(folder + "/memory.current");
    if (limit && usage) {
      // Clean page cache goes away by itself before anybody is killed.
      const std::uint64_t cache = read_field(folder + "/memory.stat", "inactive_file");
      const std::uint64_t used = *usage > cache ? *usage - cache : 0;
      const std::uint64_t left = *limit > used ? *limit - used : 0;
      if (left < headroom) {
        headroom = left;
        if (limited_by != nullptr) *limited_by = "the memory limit of cgroup " + group;
      }
    }
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
  return headroom;
}

}  // namespace theus::shm
