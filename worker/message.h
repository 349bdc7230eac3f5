// A plan as a Cap'n Proto message. Included by worker/*.cpp only.
#pragma once

#include <capnp/message.h>

#include <cstdint>

#include "worker/plan.h"

namespace theus::worker {

// A builder over memory that it finds zeroed and zeroes when it goes, unless it is abandoned.
struct Message {
  explicit Message(kj::ArrayPtr<capnp::word> words)
      : builder(words, capnp::AllocationStrategy::FIXED_SIZE) {}
  ~Message() {
    if (!abandoned) builder.~MallocMessageBuilder();
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  union {
    capnp::MallocMessageBuilder builder;
  };
  bool abandoned = false;
};

// More than the message of this plan will take, in words.
std::uint64_t message_words(const Plan& plan);

// All but the sequence.
void write_message(const Transaction::State& s, const Plan& plan, shm::Link journal_region,
                   shm::wire::Delta::Builder delta);

}  // namespace theus::worker
