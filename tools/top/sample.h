// What theus-top reads from shared memory at one moment, as plain values.
//
// Nothing read is believed: counts are cut to what the layout has room for, texts lose everything
// that is not printable. The sample is not one moment exactly: words are read one after another
// while workers go on.
//
// Thread safety: plain values and pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/space.h"

namespace theus::top {

struct PinSample {
  std::uint32_t index = 0;  // of the desk's pins
  std::uint64_t version = 0;
  std::uint64_t taken_ns = 0;  // CLOCK_MONOTONIC_COARSE; 0: its worker has not recorded it
};

struct WorkerSample {
  std::uint32_t slot = 0;
  std::uint64_t admission = 0;  // tells one tenant of the slot from the next
  std::uint32_t pid = 0;
  bool leaving = false;
  std::string label;
  // Since its admission.
  std::uint64_t commits = 0;
  std::uint64_t conflicts = 0;
  std::uint64_t read_only = 0;
  std::uint64_t rollbacks = 0;
  std::uint64_t combined = 0;
  std::uint64_t lock_waits = 0;
  std::uint32_t pins = 0;   // versions that are pinned
  std::uint32_t views = 0;  // blocks that are pinned
  std::optional<PinSample> oldest_pin;
};

struct Sample {
  std::uint64_t taken_ns = 0;  // CLOCK_MONOTONIC
  std::uint64_t clock = 0;
  std::uint64_t capacity_bytes = 0;  // for values; the header and its tables come on top
  std::uint64_t used_bytes = 0;
  std::uint64_t backed_bytes = 0;  // memory that the system has given
  std::uint64_t keys = 0;
  std::uint64_t retained_keys = 0;  // keys with superseded versions
  std::uint64_t dead_nodes = 0;     // deleted mappings not yet taken apart
  std::uint64_t lock_repairs = 0;
  std::uint64_t created_at_ns = 0;  // CLOCK_REALTIME
  std::uint32_t coordinator_pid = 0;
  std::vector<WorkerSample> workers;  // by slot
};

// An observer's mapping. Desks of free slots are not touched: reading a page that nobody has
// written makes the system provide it.
Sample take_sample(const shm::Space& space, std::uint64_t now_ns);

// `text` up to its first NUL, at most `size` bytes, as printable UTF-8: everything else is '?'.
std::string printable(const char* text, std::size_t size);

}  // namespace theus::top
