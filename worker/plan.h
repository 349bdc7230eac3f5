// What a transaction is going to submit, before it is written as a message. Included by
// worker/*.cpp only.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/delta.capnp.h"
#include "worker/transaction_state.h"

namespace theus::worker {

// A check, and what it speaks of, to name a conflict: an entry or a mapping.
struct PlannedCheck {
  std::uint64_t link, seen;
  shm::wire::Check::Kind kind;
  const Entry* entry;
  const Mapping* mapping;
};

struct PlannedAbsence {
  const Entry* entry;
  std::uint64_t sort;  // once validated: the key's place in the index
};

struct PlannedOperation {
  const Entry* entry;
  shm::wire::Operation::Kind kind;
  shm::Link record, new_key, spare;
  bool folds;
};

struct Plan {
  std::vector<PlannedCheck> checks;
  std::vector<PlannedAbsence> absences;
  // Those of a large read set that held at `validated_at`, in the order in which the arbiter
  // searches them (validate.h).
  std::vector<PlannedCheck> validated;
  std::vector<PlannedAbsence> validated_absences;
  std::uint64_t validated_at = 0;
  std::vector<PlannedOperation> operations;
  std::vector<const Entry*> deletes;
  std::uint64_t absence_words = 0;
  std::uint64_t keys_new = 0;

  void clear_checks() {
    checks.clear();
    absences.clear();
    validated.clear();
    validated_absences.clear();
    absence_words = validated_at = 0;
  }
  void clear() {
    clear_checks();
    operations.clear();
    deletes.clear();
    keys_new = 0;
  }
};

}  // namespace theus::worker
