// Whether what one transaction has written would make another one of this process lose. Included by
// worker/*.cpp only.
#pragma once

#include "worker/transaction_state.h"
#include "worker/turn.h"

namespace theus::worker {

// Also after the transaction's end, until it begins again.
Footprint footprint_of(const Transaction::State& s);

// The first entry that `writer` has written and that conflicts with what is expected of another
// transaction, or with what it has done so far; nullptr: none. In doubt it does.
const Entry* meets(const Footprint& expected, const Transaction::State& writer);
const Entry* meets(const Transaction::State& other, const Transaction::State& writer);

}  // namespace theus::worker
