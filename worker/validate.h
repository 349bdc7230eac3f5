// Validating a large read set in the worker, so that the arbiter need not walk it under the lock.
// Included by worker/*.cpp only.
//
// What is judged is whether each check holds at the clock as it is on entry, without any lock: the
// transaction's pin keeps the records, keys and nodes that it read. What holds there goes from the
// plan's checks to `validated`; the arbiter then looks at nothing but the keys written since
// (shm/read_set.h). What cannot be told, because somebody is changing it at this moment, stays
// where it is, and the arbiter checks it.
//
// Numbers found in place (`died_at`, `structure_version`) may belong to a step under way or to one
// that will be undone. They are then above the clock: whoever loads a clock of v (acquire) sees
// what came before its store, and so nothing of an undone step that was to be v.
#pragma once

#include <cstdint>
#include <optional>

#include "worker/plan.h"

namespace theus::worker {

// A check that has failed. Serializable or not, the transaction cannot commit any more.
struct Refuted {
  const Entry* entry = nullptr;
  const Mapping* mapping = nullptr;
  std::uint64_t winner_version = 0;
  bool at_write = false;  // by an operation on `entry`, not by a check
};

// The first check that has failed, in the order of the plan; then the plan is of no more use.
std::optional<Refuted> validate(const Transaction::State& state, Plan& plan);

}  // namespace theus::worker
