#include "shm/pins.h"

#include <time.h>

#include <algorithm>

namespace theus::shm {

bool Pins::take(std::uint32_t* pin, std::uint64_t* version) {
  std::uint32_t high = desk_->pins_high.load(std::memory_order_relaxed);
  std::uint32_t index = next_;
  if (index >= high || desk_->pins[index].load(std::memory_order_relaxed) != 0) {
    for (index = 0; index < high; ++index) {
      if (desk_->pins[index].load(std::memory_order_relaxed) == 0) break;
    }
    if (index == kPinsPerDesk) return false;
    // Stored before the pin beyond it: a scan that comes after the pin's store covers the pin.
    if (index == high) desk_->pins_high.store(high + 1, std::memory_order_seq_cst);
  }
  const Header& header = space_.header();
  while (true) {
    const std::uint64_t seen = header.clock.load(std::memory_order_acquire);
    desk_->pins[index].store(seen + 1, std::memory_order_seq_cst);
    if (header.reclaim_clock.load(std::memory_order_seq_cst) <= seen) {
      *pin = index;
      *version = seen;
      next_ = index;
      return true;
    }
  }
}

void Pins::release(std::uint32_t pin) {
  desk_->pins[pin].store(0, std::memory_order_release);
  next_ = pin;
}

namespace {

// The words that neither side has ever used are left alone: their pages may not exist yet.
void copy_words(const Word* from, std::uint32_t count, Word* to, HalfWord* high,
                std::uint32_t most) {
  const std::uint32_t before = std::min(high->load(std::memory_order_relaxed), most);
  count = std::min(count, most);
  // Before the first pin beyond it. Nobody scans now; whoever does later has the lock by then.
  if (count > before) high->store(count, std::memory_order_seq_cst);
  for (std::uint32_t i = 0; i < std::max(count, before); ++i) {
    to[i].store(i < count ? from[i].load(std::memory_order_acquire) : 0,
                std::memory_order_release);
  }
}

}  // namespace

// Whoever reads these stores: scans, under the lock, and eviction. A death in the middle leaves
// pins of a slot whose socket comes to its end: evicted.
void copy_pins(const Desk& from, Desk& to) {
  copy_words(from.pins, from.pins_high.load(std::memory_order_acquire), to.pins, &to.pins_high,
             kPinsPerDesk);
  copy_words(from.block_pins, from.block_pins_high.load(std::memory_order_acquire), to.block_pins,
             &to.block_pins_high, kBlockPinsPerDesk);
}

namespace {

// Makes room among what a scan has found: forked children hold the same pins again. False: too much
// is different.
template <class Array>
bool drop_doubles(Array& found, std::size_t* count) {
  const auto end = found.begin() + static_cast<std::ptrdiff_t>(*count);
  std::sort(found.begin(), end);
  *count = static_cast<std::size_t>(std::unique(found.begin(), end) - found.begin());
  // Sorting again for a few places each time would make the scan long.
  return *count <= found.size() / 2;
}

}  // namespace

void PinScan::scan(const Space& space) {
  Header& header = space.writable();
  clock_ = header.clock.load(std::memory_order_acquire);
  header.reclaim_clock.store(clock_, std::memory_order_seq_cst);
  pin_count_ = block_count_ = 0;
  pins_overflow_ = blocks_overflow_ = false;
  // Read after the store above: a slot or a pin that comes later is rejected by the second look.
  const std::uint32_t slots =
      std::min(header.slots_high.load(std::memory_order_seq_cst), kMaxSlots);
  std::uint64_t lowest = ~std::uint64_t{0};
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const Desk& desk = space.desk(slot);
    const std::uint32_t high =
        std::min(desk.pins_high.load(std::memory_order_seq_cst), kPinsPerDesk);
    for (std::uint32_t i = 0; i < high; ++i) {
      const std::uint64_t word = desk.pins[i].load(std::memory_order_seq_cst);
      if (word == 0) continue;
      lowest = std::min(lowest, word - 1);
      if (pin_count_ > 0 && pins_[pin_count_ - 1] == word - 1) continue;
      if (pin_count_ == kPinsKept && !pins_overflow_) {
        pins_overflow_ = !drop_doubles(pins_, &pin_count_);
      }
      if (!pins_overflow_) pins_[pin_count_++] = word - 1;
    }
  }
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const Desk& desk = space.desk(slot);
    const std::uint32_t high =
        std::min(desk.block_pins_high.load(std::memory_order_seq_cst), kBlockPinsPerDesk);
    for (std::uint32_t i = 0; i < high; ++i) {
      const std::uint64_t block = desk.block_pins[i].load(std::memory_order_seq_cst);
      if (block == 0) continue;
      if (block_count_ == kBlocksKept && !blocks_overflow_) {
        blocks_overflow_ = !drop_doubles(blocks_, &block_count_);
      }
      if (!blocks_overflow_) blocks_[block_count_++] = block;
    }
  }
  std::sort(pins_.begin(), pins_.begin() + static_cast<std::ptrdiff_t>(pin_count_));
  std::sort(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(block_count_));
  if (pins_overflow_) {
    pins_[0] = lowest;
    pin_count_ = 1;
  }
}

bool PinScan::invisible(std::uint64_t version, std::uint64_t died_at) const {
  if (died_at == 0 || died_at > clock_) return false;
  if (pins_overflow_) return died_at <= pins_[0];
  const auto end = pins_.begin() + static_cast<std::ptrdiff_t>(pin_count_);
  const auto first = std::lower_bound(pins_.begin(), end, version);
  return first == end || *first >= died_at;
}

bool PinScan::block_pinned(std::uint64_t block) const {
  return blocks_overflow_ ||
         std::binary_search(blocks_.begin(),
                            blocks_.begin() + static_cast<std::ptrdiff_t>(block_count_), block);
}

}  // namespace theus::shm
