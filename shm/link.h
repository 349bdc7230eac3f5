// Link: how one piece of shared memory names another.
//
// A cell is named by its offset in the data segment, in units of 16 bytes, and by the generation
// the cell had when the link was made. Whoever fills a cell raises its generation *before* the
// first field, so a reader that follows an outdated link, or that stands on a cell while it is
// refilled, sees another generation and starts again. Structural cells are type-stable: a
// KeyRecord's memory is a KeyRecord for as long as the segment lives.
//
// A link whose generation is `kMarkerGeneration` names no cell but bucket number `unit` of the
// index directory (see index.h): the list of keys runs through bucket markers.
#pragma once

#include <cstdint>

namespace theus::shm {

inline constexpr std::uint32_t kUnitBytes = 16;
inline constexpr std::uint32_t kMarkerGeneration = 0xFFFFFFFFu;

// Value type. Raw value 0 is "no link": unit 0 lies in the header, where no cell can be.
struct Link {
  std::uint64_t raw = 0;

  constexpr Link() = default;
  constexpr explicit Link(std::uint64_t raw_value) : raw(raw_value) {}
  constexpr Link(std::uint32_t generation, std::uint32_t unit)
      : raw((static_cast<std::uint64_t>(generation) << 32) | unit) {}

  static constexpr Link marker(std::uint32_t bucket) { return Link(kMarkerGeneration, bucket); }

  constexpr std::uint32_t generation() const { return static_cast<std::uint32_t>(raw >> 32); }
  constexpr std::uint32_t unit() const { return static_cast<std::uint32_t>(raw); }
  constexpr std::uint64_t offset() const {
    return static_cast<std::uint64_t>(unit()) * kUnitBytes;
  }
  constexpr bool is_marker() const { return generation() == kMarkerGeneration; }
  constexpr explicit operator bool() const { return raw != 0; }
  constexpr bool operator==(const Link&) const = default;
};

// The generation that follows `generation`: never 0 (a link of generation 0 and unit 0 would be
// null) and never the marker's.
constexpr std::uint32_t next_generation(std::uint32_t generation) {
  std::uint32_t next = generation + 1;
  return next == 0 || next == kMarkerGeneration ? 1 : next;
}

}  // namespace theus::shm
