// What the arbiter makes of one delta.
#pragma once

#include <cstdint>

#include "shm/layout.h"

namespace theus::shm {

struct Decision {
  Outcome outcome = Outcome::kNone;
  std::uint64_t version = 0;  // committed; of a conflict the winner's where it is known; of
                              // kValidateAgain the version up to which what was read is known to
                              // have held
  std::uint32_t index = 0;    // of a conflict: checks, absences, validated, validatedAbsences, then
                              // operations, then deletes, counted through
  bool ends_turn = false;     // says the delta
};

}  // namespace theus::shm
