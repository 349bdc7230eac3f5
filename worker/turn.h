// What a transaction that has lost too often asks for: docs/architecture.md, "The turn".
#pragma once

#include <cstdint>
#include <vector>

namespace theus::worker {

// What an execution has read and written, as hashes: the next one will do much the same. It may
// stand for more than that, never for less. Value type.
struct Footprint {
  bool everything = false;
  // Each in rising order.
  std::vector<std::uint64_t> touched;  // keys that were read, looked for or written
  std::vector<std::uint64_t> written;  // of these, those that were written
  std::vector<std::uint64_t> listed;   // mappings whose set of keys was read: node ids
};

struct TurnWish {
  std::uint64_t nanoseconds = 0;  // how long it lasts at most
  std::uint64_t patience_ns = 0;  // how long to wait for it while it is others'
  Footprint expected = {};        // what is going to be read and written, as far as that is known
};

}  // namespace theus::worker
