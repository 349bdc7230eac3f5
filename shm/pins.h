// Pins: what keeps an old version, or a block that Python still looks at, alive.
//
// A reader loads the clock, stores it in its pin (seq_cst) and looks again: the pin is valid if
// `reclaim_clock` is at or below it; otherwise it starts again. Whoever reclaims stores
// reclaim_clock = clock (seq_cst) and then reads all pins. In the single order of these operations
// either the reclaimer's scan comes after the pin's store and sees it, or the reader's second look
// comes after the new reclaim_clock and rejects the pin. So what died at or below the scan's clock
// and no pin of the scan covers is seen by nobody, now or ever; that lets a scan be used again
// later, but never for what died above its clock. (tests/model/pin_reclaim.pml)
//
// A held view sets its block pin while its snapshot pin still stands; scans read snapshot pins
// first, then block pins. A pin is never moved from one place to another. Copied it is at a fork
// only (copy_pins), under the lock, which scans hold, too: a scan sees the one, or both.
#pragma once

#include <array>
#include <cstdint>

#include "shm/space.h"

namespace theus::shm {

// Worker side. The pin array of one desk, used by one process, calls serialized by it.
class Pins {
 public:
  Pins(const Space& space, std::uint32_t slot) : space_(space), desk_(&space.desk(slot)) {}

  // Pins the newest version. False: all kPinsPerDesk pins are in use.
  bool take(std::uint32_t* pin, std::uint64_t* version);
  void release(std::uint32_t pin);  // release store: everything read under it is over

  // In a forked child: the pins are those of another slot from now on, into which they have been
  // copied. Async-signal-safe.
  void inherit(std::uint32_t slot) { desk_ = &space_.desk(slot); }

 private:
  const Space& space_;
  Desk* desk_;
  std::uint32_t next_ = 0;  // where to look for a free pin first
};

// Lock held; `to` is nobody's yet. The owner of `from` has to hold its pins still meanwhile: what
// it sets or clears after a word was read is not in the copy.
void copy_pins(const Desk& from, Desk& to);

// Reclaimer's side: lock held. What a scan of all pins has found.
class PinScan {
 public:
  void scan(const Space& space);

  std::uint64_t clock() const { return clock_; }
  // True if nobody can see, now or ever, a record that lives in [version, died_at).
  bool invisible(std::uint64_t version, std::uint64_t died_at) const;
  bool block_pinned(std::uint64_t block) const;
  // Oldest pinned version, or the clock.
  std::uint64_t oldest() const { return pin_count_ > 0 ? pins_[0] : clock_; }

 private:
  // More distinct pins than this and everything from the oldest one on is kept; more block pins,
  // and every block is.
  static constexpr std::size_t kPinsKept = 4096;
  static constexpr std::size_t kBlocksKept = 32768;
  std::array<std::uint64_t, kPinsKept> pins_{};
  std::array<std::uint64_t, kBlocksKept> blocks_{};
  std::size_t pin_count_ = 0;
  std::size_t block_count_ = 0;
  bool pins_overflow_ = false;
  bool blocks_overflow_ = false;
  std::uint64_t clock_ = 0;
};

}  // namespace theus::shm
