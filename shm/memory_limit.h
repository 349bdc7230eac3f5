// How much memory may still be taken before the kernel would kill somebody for it.
//
// A memory cgroup that is full answers a page fault with the OOM killer, not with an error
// (measured), so its limit is read before memory is taken, and a reserve is kept.
#pragma once

#include <cstdint>
#include <string>

namespace theus::shm {

// Bytes that may be taken now; *limited_by names what sets the limit ("cgroup /a/b", "the
// machine's memory"). Reads /proc and the cgroup's files; 20 to 50 us. Thread safe.
std::uint64_t memory_headroom(std::string* limited_by);

inline constexpr std::uint64_t kMemoryReserveBytes = 32ull << 20;

}  // namespace theus::shm
