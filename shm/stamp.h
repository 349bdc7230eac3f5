// The layout stamp: one number that differs whenever two builds could misread each other's shared
// memory. Sizes, offsets, constants, the C library's name and version kind, and the bytes of a
// locked mutex go into it.
#pragma once

#include <cstdint>
#include <string>

namespace theus::shm {

// Same for every process of the same build kind. Thread safe.
std::uint64_t layout_stamp();

// For people: "layout 1, glibc, mutex 40 bytes, stamp 0x...".
std::string describe_layout();

}  // namespace theus::shm
