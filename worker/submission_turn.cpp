// One submission at a time from this process, and none that would make a transaction lose whose
// turn it is.
#include "worker/transaction_state.h"

namespace theus::worker {

SubmissionTurn::SubmissionTurn(Transaction::State& state)
    : state_(state), lock_(state.in.submission_mutex, std::defer_lock) {
  Turns& turns = state.in.turns;
  std::uint64_t deadline_ns = 0;
  for (take();; take()) {
    // Of whoever went before, a submission may still be read.
    state.in.require_place();
    // With the place in hand: whoever claims a turn from here on waits until we are done.
    const Entry* met = turns.obstacle(state);
    if (met == nullptr) return;
    if (turns.of_this_thread()) {
      if (state.gives_way) gives_way_ = met;
      return;
    }
    lock_.unlock();
    if (turns.wait(&deadline_ns)) continue;
    take();
    state.in.require_place();
    return;
  }
}

void SubmissionTurn::take() {
  if (lock_.try_lock()) return;
  const Waiting waits(state_.in.wait_hook);
  lock_.lock();
}

// A turn is over with the decision that it was claimed for, and that may have been made here:
// refuted while it validated, out of memory, interrupted. Nobody waits for the rest of it.
SubmissionTurn::~SubmissionTurn() {
  state_.bury_prelinked();
  state_.in.turns.end(state_);
}

}  // namespace theus::worker
