// The pool: free memory that is kept with memory behind it, because recycled memory is written at
// several times the speed of fresh memory; and the giving back to the system of what is above it.
//
// Nothing is given back that anybody has used within the last window (10 s): what counts is the
// fewest warm extents that there have been in it. While there is no more than what is kept, no
// timer runs; the first release beyond it wakes the janitor (Arbiter::unlock).
//
// Structural cells are never part of it: an extent of theirs is never free again (shm/cells.h), so
// that a reader who still stands on one reads a generation that goes on. What is punched has held
// blocks and runs only, which pins keep as long as anybody looks at them.
//
// The reserve (shm/extents.h) gets its memory here, too, a short time after the start.
//
// Work goes in pieces of at most 4 MiB: taken out under the lock (work), given memory or deprived
// of it without the lock (between), put back at the next hold. A death in between leaves a run that
// is out; the next coordinator begins with taking its memory away and putting it back.
//
// Thread safety: one thread at a time.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <optional>

#include "shm/arbiter.h"
#include "shm/space.h"

namespace theus::coordinator {

class Pool {
 public:
  struct Settings {
    std::uint64_t keep_bytes = shm::kWarmKeepBytes;  // or half of what is in use, if that is more
    std::uint64_t window_ns = 10'000'000'000;
  };
  Pool(const shm::Space& space, shm::Arbiter& arbiter, Settings settings, spdlog::logger& log,
       std::uint64_t now_ns);

  // When look() is to be called; kNever: not before something happens.
  std::uint64_t due_ns() const;
  void look(std::uint64_t now_ns);

  bool wants_lock() const;
  void work(std::uint64_t now_ns);  // lock held: a bounded piece
  void between();                   // lock free, after each piece

  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

 private:
  enum class Change : std::uint8_t { kGiveMemory, kTakeAway };
  bool take_out();
  void judge(std::uint64_t now_ns);

  const shm::Space& space_;
  shm::Arbiter& arbiter_;
  const Settings settings_;
  spdlog::logger& log_;
  std::optional<shm::Arbiter::FreeRun> out_;
  Change change_ = Change::kTakeAway;
  bool has_memory_ = false;  // the run that is out
  bool recovering_ = true;   // what a predecessor had out
  std::uint64_t recover_at_ = 0;
  std::uint64_t reserve_due_ns_;
  bool reserve_wanted_ = false;
  bool reserve_failed_ = false;  // and said so
  std::uint64_t watch_due_ns_ = kNever;
  bool judging_ = false;
  std::uint64_t surplus_ = 0;  // extents still to be given back
  std::uint64_t surplus_at_ = 0;
};

}  // namespace theus::coordinator
