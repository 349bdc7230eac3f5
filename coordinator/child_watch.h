// The supervisor's watch over its child: whether it is stopped, or stuck with the arbitration lock.
//
// Both are judged by looks of a running supervisor, one for each interval that has passed, never
// more (suspicion.h). It looks only while there is a reason: the kernel has said that the child
// stopped, or somebody who waits for the lock has raised an alarm. An alarm is not believed: it
// makes the supervisor look at the lock for itself, in the first pages of the data segment, which
// it maps read-only for that.
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>
#include <sys/types.h>

#include <cstdint>

#include "coordinator/suspicion.h"
#include "shm/layout.h"

namespace theus::coordinator {

class ChildWatch {
 public:
  // `data_readable` is borrowed, for as long as this lives.
  ChildWatch(int data_readable, spdlog::logger& log) : data_readable_(data_readable), log_(log) {}
  ~ChildWatch();
  ChildWatch(const ChildWatch&) = delete;
  ChildWatch& operator=(const ChildWatch&) = delete;

  void begin(pid_t child);  // a new one
  void stopped();           // the kernel says so; it may have gone on since
  void alarm();             // somebody cannot get the lock

  // When look() wants to be called, by monotonic_ns(); the largest number: not at all.
  std::uint64_t next_look_ns() const;
  // Looks if it is time to. True: the child is to be killed.
  bool look();

 private:
  bool look_at_state();
  bool look_at_lock();
  const shm::Header* header();

  const int data_readable_;
  spdlog::logger& log_;
  const shm::Header* header_ = nullptr;  // as much of it as lies before the slots
  pid_t child_ = -1;
  std::uint64_t next_look_ns_ = 0;
  std::uint32_t looks_stopped_ = 0;
  bool stopped_ = false;  // looking for that
  bool alarmed_ = false;
  bool suspecting_ = false;
  Suspicion suspicion_;
};

}  // namespace theus::coordinator
