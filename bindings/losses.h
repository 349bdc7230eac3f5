// What a loop that runs a transaction again has seen of it, and what it asks for because of that.
#pragma once

#include <cstdint>

#include "worker/turn.h"

namespace theus::bindings {

// Value type.
struct Losses {
  std::uint32_t count = 0;       // executions that met a conflict
  std::uint32_t turns = 0;       // of these, those that had asked for a turn
  std::uint64_t longest_ns = 0;  // that a body took, of those that were timed
};

// A transaction that has lost so often asks for a turn.
inline constexpr std::uint32_t kLossesBeforeTurn = 3;
inline bool wants_turn(const Losses& losses) { return losses.count >= kLossesBeforeTurn; }
// With the next one: then it is worth knowing what it reads and writes, and how long it takes.
inline bool wants_turn_soon(const Losses& losses) { return losses.count + 1 >= kLossesBeforeTurn; }

// For as long as it takes, within bounds: a process that is stopped during its turn holds up all
// others until the turn is over. `met`: the footprint of the last execution, or null.
worker::TurnWish wish_for(const Losses& losses, const worker::Footprint* met);

}  // namespace theus::bindings
