// Who sleeps until something changes, and what a commit does about it. docs/waiting.md has the
// protocol.
//
// All functions: lock held.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "shm/tables.h"
#include "shm/write_ring.h"

namespace theus::shm {

// Interests are hashes; two that are equal by chance wake somebody for nothing.
// A key's place in the index stands for the key: it is made from its node and its bytes.
std::uint64_t interest_exact(std::uint64_t key_sort);  // that key
std::uint64_t interest_below(std::uint64_t key_sort);  // that key, and everything below it
std::uint64_t interest_node(std::uint64_t node);       // every key of that node

class Waiters {
 public:
  explicit Waiters(Tables& tables)
      : tables_(tables), ring_(tables.space, tables.journal) {}

  // Registers a wait of the process in `slot`; more than kWaiterInterests means everything.
  // nullopt: kMaxWaiters are in use.
  std::optional<std::uint32_t> add(std::uint32_t slot, std::span<const std::uint64_t> interests);
  // Arms it again, with new interests. False: it is not `slot`'s (which has been evicted).
  bool rearm(std::uint32_t waiter, std::uint32_t slot, std::span<const std::uint64_t> interests);
  void remove(std::uint32_t waiter, std::uint32_t slot);
  // Every wait of a process that is gone, or given up: whoever still sleeps there is woken.
  void remove_all_of(std::uint32_t slot);

  bool any() const { return tables_.header().waiters.load(std::memory_order_relaxed) != 0; }
  // Wakes those that the newest commit concerns. After the clock's store.
  void notify(std::uint64_t version);
  // Wakes all, after a death: some commit may not have been told to everybody.
  void wake_all();

 private:
  // What a delta has touched, without allocating. Too much: everybody is concerned.
  static constexpr std::uint32_t kTouchedMax = 512;

  void fill(WaiterRecord& record, std::span<const std::uint64_t> interests);
  bool collect(std::uint64_t version);
  bool touch(std::uint64_t interest);
  bool concerns(const WaiterRecord& record) const;
  WaiterRecord* own(std::uint32_t waiter, std::uint32_t slot) const;
  static void call(WaiterRecord& record);
  static void wake(WaiterRecord& record);
  void lower_high();

  Tables& tables_;
  const WriteRing ring_;
  std::uint64_t touched_[kTouchedMax];
  std::uint32_t touched_count_ = 0;
  std::uint64_t bloom_ = 0;
};

}  // namespace theus::shm
