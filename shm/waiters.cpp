#include "shm/waiters.h"

#include <algorithm>

#include "shm/futex.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kDepthMax = 4096;  // far above any nesting the bindings allow
constexpr std::uint32_t kSortFrom = 32;    // touched interests: fewer are looked through one by one

// The finalizer of MurmurHash3 (Appleby): a bijection that leaves no pattern of its input.
constexpr std::uint64_t mix(std::uint64_t value) {
  value = (value ^ value >> 33) * 0xff51afd7ed558ccdull;
  value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53ull;
  return value ^ value >> 33;
}

constexpr std::uint64_t bloom_bit(std::uint64_t interest) { return 1ull << (interest >> 58); }

std::uint32_t high_of(const Header& header) {
  return std::min(header.waiters_high.load(std::memory_order_relaxed), kMaxWaiters);
}

}  // namespace

std::uint64_t interest_exact(std::uint64_t key_sort) { return mix(key_sort); }
std::uint64_t interest_below(std::uint64_t key_sort) { return mix(key_sort ^ 0x5bd1e995ull << 32); }
std::uint64_t interest_node(std::uint64_t node) { return mix(node ^ 0x9e3779b97f4a7c15ull); }

// Nobody looks at a record before its `slot` is set, and only lock owners do: plain order is
// enough, the lock's release publishes it. `wake` is slept upon by its own process alone. A death
// in here is the waiter's own: its eviction frees the record, whatever it names.
void Waiters::fill(WaiterRecord& record, std::span<const std::uint64_t> interests) {
  std::uint64_t bloom = 0;
  if (interests.size() > kWaiterInterests) {
    record.count.store(kEverything, std::memory_order_relaxed);
  } else {
    for (std::size_t i = 0; i < interests.size(); ++i) {
      record.interest[i].store(interests[i], std::memory_order_relaxed);
      bloom |= bloom_bit(interests[i]);
    }
    record.count.store(static_cast<std::uint32_t>(interests.size()), std::memory_order_relaxed);
  }
  record.bloom.store(bloom, std::memory_order_relaxed);
  record.wake.store(0, std::memory_order_release);
}

std::optional<std::uint32_t> Waiters::add(std::uint32_t slot,
                                          std::span<const std::uint64_t> interests) {
  Header& header = tables_.header();
  const std::uint32_t high = high_of(header);
  std::uint32_t at = 0;
  while (at < high && header.waiting_table[at].slot.load(std::memory_order_relaxed) != 0) ++at;
  if (at == kMaxWaiters) return std::nullopt;
  fill(header.waiting_table[at], interests);
  StepJournal& journal = tables_.journal;
  journal.begin(kNoVersion);
  if (at == high) journal.set(header.waiters_high, high + 1);
  journal.set(header.waiting_table[at].slot, slot + 1);
  journal.set(header.waiters, header.waiters.load(std::memory_order_relaxed) + 1);
  journal.end();
  return at;
}

WaiterRecord* Waiters::own(std::uint32_t waiter, std::uint32_t slot) const {
  if (waiter >= kMaxWaiters) return nullptr;
  WaiterRecord& record = tables_.header().waiting_table[waiter];
  return record.slot.load(std::memory_order_relaxed) == slot + 1 ? &record : nullptr;
}

bool Waiters::rearm(std::uint32_t waiter, std::uint32_t slot,
                    std::span<const std::uint64_t> interests) {
  WaiterRecord* record = own(waiter, slot);
  if (record != nullptr) fill(*record, interests);
  return record != nullptr;
}

void Waiters::remove(std::uint32_t waiter, std::uint32_t slot) {
  WaiterRecord* record = own(waiter, slot);
  if (record == nullptr) return;
  Header& header = tables_.header();
  StepJournal& journal = tables_.journal;
  journal.begin(kNoVersion);
  journal.set(record->slot, 0);
  journal.set(header.waiters, header.waiters.load(std::memory_order_relaxed) - 1);
  journal.end();
  lower_high();
}

void Waiters::lower_high() {
  Header& header = tables_.header();
  std::uint32_t high = high_of(header);
  while (high > 0 && header.waiting_table[high - 1].slot.load(std::memory_order_relaxed) == 0) {
    --high;
  }
  // One store: a death before it leaves a mark that is higher than it has to be.
  header.waiters_high.store(high, std::memory_order_release);
}

void Waiters::remove_all_of(std::uint32_t slot) {
  if (!any()) return;
  for (std::uint32_t i = high_of(tables_.header()); i-- > 0;) {
    WaiterRecord* record = own(i, slot);
    if (record == nullptr) continue;
    wake(*record);
    remove(i, slot);
  }
}

void Waiters::wake(WaiterRecord& record) {
  record.wake.store(1, std::memory_order_release);
  futex_wake(record.wake);
}

// A waiter that has been called and has not yet looked is not called again.
void Waiters::call(WaiterRecord& record) {
  if (record.wake.load(std::memory_order_relaxed) == 0) wake(record);
}

// Those, too, whose `wake` is set: its owner may have died before the call.
void Waiters::wake_all() {
  Header& header = tables_.header();
  const std::uint32_t high = high_of(header);
  for (std::uint32_t i = 0; i < high; ++i) {
    WaiterRecord& record = header.waiting_table[i];
    if (record.slot.load(std::memory_order_relaxed) != 0) wake(record);
  }
}

bool Waiters::touch(std::uint64_t interest) {
  if (touched_count_ == kTouchedMax) return false;
  touched_[touched_count_++] = interest;
  bloom_ |= bloom_bit(interest);
  return true;
}

// Fills `touched_` with what the commit has written. False: too much.
bool Waiters::collect(std::uint64_t version) {
  touched_count_ = 0;
  bloom_ = 0;
  std::uint64_t last_node = 0;
  for (std::uint64_t at = ring_.end(); at-- > 0;) {
    const WriteRing::Entry entry = ring_.at(at);
    if (entry.version != version) break;
    if (!entry.subject) return false;  // the delta wrote more than the ring takes of one
    const auto place = locate_cell(tables_.space, entry.subject.unit());
    // A mapping whose set of keys it has changed: its keys are here as well.
    if (!place || !is_key(place->cell_class())) continue;
    const KeyRecord* key = &tables_.key(entry.subject.unit());
    const std::uint64_t sort = key->sort.load(std::memory_order_relaxed);
    if (!touch(interest_exact(sort)) || !touch(interest_below(sort))) return false;
    std::uint64_t node = key->node.load(std::memory_order_relaxed);
    if (node == last_node) continue;  // the way up from there has been collected
    last_node = node;
    if (!touch(interest_node(node))) return false;
    for (std::uint32_t depth = 0; depth < kDepthMax; ++depth) {
      const Link bound_to(tables_.node(Link(node).unit()).parent.load(std::memory_order_relaxed));
      if (!bound_to) break;
      key = &tables_.key(bound_to.unit());
      if (!touch(interest_below(key->sort.load(std::memory_order_relaxed)))) return false;
      node = key->node.load(std::memory_order_relaxed);
    }
  }
  if (touched_count_ > kSortFrom) std::sort(touched_, touched_ + touched_count_);
  return true;
}

bool Waiters::concerns(const WaiterRecord& record) const {
  const std::uint32_t count = record.count.load(std::memory_order_relaxed);
  if (count > kWaiterInterests) return true;
  if ((record.bloom.load(std::memory_order_relaxed) & bloom_) == 0) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t interest = record.interest[i].load(std::memory_order_relaxed);
    const std::uint64_t* end = touched_ + touched_count_;
    const bool found = touched_count_ > kSortFrom ? std::binary_search(touched_, end, interest)
                                                  : std::find(touched_, end, interest) != end;
    if (found) return true;
  }
  return false;
}

void Waiters::notify(std::uint64_t version) {
  Header& header = tables_.header();
  const std::uint32_t high = high_of(header);
  bool collected = false, everybody = false;
  for (std::uint32_t i = 0; i < high; ++i) {
    WaiterRecord& record = header.waiting_table[i];
    if (record.slot.load(std::memory_order_relaxed) == 0 ||
        record.wake.load(std::memory_order_relaxed) != 0) {
      continue;
    }
    if (!collected) everybody = !collect(version);
    collected = true;
    if (everybody || concerns(record)) call(record);
  }
}

}  // namespace theus::shm
