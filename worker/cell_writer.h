// Filling held cells: records, keys, nodes and chunks, as the arbiter expects to find them.
// Included by worker/*.cpp only.
//
// Nobody else reads these cells before they are linked, except a reader that still stands on what
// they were before: it reads the generation again, which Stock has raised already. All stores are
// release for its sake.
#pragma once

#include <cstdint>

#include "worker/transaction_state.h"

namespace theus::worker {

class CellWriter {
 public:
  // `prelink`: so much is new that it is linked piece by piece before the delta is submitted.
  CellWriter(Transaction::State& state, bool prelink) : state_(state), prelink_(prelink) {}

  // A record with the entry's current value; with a new mapping, all that is below it.
  shm::Link record(const Entry& entry);
  // A key record for `entry` in node `node`.
  shm::Link key(const Entry& entry, std::uint64_t node);
  // An empty order chunk of a class.
  shm::Link chunk(std::uint8_t cell_class);

  // Key records in new subtrees that the delta itself will have to link.
  std::uint64_t keys_below() const { return keys_below_; }

 private:
  shm::Link node(const Mapping& mapping);

  Transaction::State& state_;
  bool prelink_;
  std::uint64_t keys_below_ = 0;
};

}  // namespace theus::worker
