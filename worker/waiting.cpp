#include "worker/waiting.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "shm/futex.h"
#include "shm/waiters.h"
#include "worker/reader.h"
#include "worker/transaction_state.h"

namespace theus::worker {
namespace {

const shm::Header& header_of(const Snapshot& snapshot) { return snapshot.space().header(); }

std::uint64_t hash_of(const Snapshot& snapshot, std::uint64_t node, KeyView key) {
  return shm::hash_key(header_of(snapshot).hash_seed.load(std::memory_order_relaxed), node, key);
}

const shm::NodeRecord* node_record(const Snapshot& snapshot, std::uint64_t node) {
  return snapshot.space().cell<shm::NodeRecord>(shm::Link(node));
}

// May be that of a commit which is under way: then it is early, never late.
std::uint64_t structure_version(const Snapshot& snapshot, std::uint64_t node) {
  const shm::NodeRecord* record = node_record(snapshot, node);
  return record == nullptr ? shm::kNoVersion
                           : record->structure_version.load(std::memory_order_acquire);
}

std::uint64_t below_version(const Snapshot& snapshot, std::uint64_t node) {
  const shm::NodeRecord* record = node_record(snapshot, node);
  return record == nullptr ? shm::kNoVersion
                           : record->below_version.load(std::memory_order_acquire);
}

}  // namespace

bool changed_since(const Snapshot& snapshot, const WatchedPath& path, std::uint64_t since) {
  if (snapshot.version() <= since) return false;
  std::uint64_t node = snapshot.root();
  for (std::size_t i = 0; i < path.size(); ++i) {
    const KeyView key = path[i].view();
    const Found found =
        lookup(snapshot.space(), node, key, hash_of(snapshot, node, key), snapshot.version());
    if (!found.visible) return structure_version(snapshot, node) > since;
    // Version 0: it came with its mapping, whose binding is older or younger than `since` for both.
    if (found.seen.version > since) return true;
    if (found.seen.shape.kind != shm::ValueKind::kNode) return false;
    node = found.seen.value;
  }
  return below_version(snapshot, node) > since;
}

void add_interests(const Snapshot& snapshot, const WatchedPath& path, Interests* interests) {
  interests->everything = interests->everything || path.empty();
  std::uint64_t node = snapshot.root();
  for (std::size_t i = 0; i < path.size(); ++i) {
    const KeyView key = path[i].view();
    const std::uint64_t hash = hash_of(snapshot, node, key);
    const std::uint64_t sort = shm::key_sort(hash);
    const Found found = lookup(snapshot.space(), node, key, hash, snapshot.version());
    const bool goes_on = found.visible && found.seen.shape.kind == shm::ValueKind::kNode;
    if (i + 1 == path.size()) {
      interests->hashes.push_back(shm::interest_below(sort));
      return;
    }
    interests->hashes.push_back(shm::interest_exact(sort));
    if (!goes_on) return;
    node = found.seen.value;
  }
}

ReadSet Transaction::read_set() const {
  const State& s = *state_;
  s.require_open();
  ReadSet set;
  set.version_ = s.version;
  for (const Mapping* mapping : s.mappings) {
    const Entry* binding = mapping->bound_at;
    if (mapping->cleared_node != 0) {
      set.cleared_.push_back({mapping->cleared_node, binding->hash});
      set.cleared_read_ = set.cleared_read_ || mapping->cleared_read;
    }
    if (mapping->node == 0 && mapping->cleared_node == 0) continue;
    if (binding != nullptr && binding->present_in_snapshot) {
      set.bindings_.push_back({binding->mapping->node, OwnKey(binding->key), binding->hash,
                               binding->record_link, 0, true});
    }
    if (mapping->node == 0) continue;
    if (mapping->last_place != 0 && !mapping->read_structure) {
      set.nodes_.push_back({mapping->node, false, false});
    } else if (mapping->read_structure || mapping->read_emptiness) {
      // Who has seen all of an empty mapping has seen that it is empty, and nothing else: what came
      // and went again does not concern him.
      const bool empty = mapping->read_structure
                             ? count_entries(s.in.space, mapping->node, s.version) == 0
                             : mapping->seen_empty;
      set.nodes_.push_back({mapping->node, empty || !mapping->read_structure, empty});
    }
  }
  for (const Entry* entry : s.entries) {
    if (entry->mapping->node == 0 || !(entry->read || entry->presence_read)) continue;
    set.items_.push_back({entry->mapping->node, OwnKey(entry->key), entry->hash,
                          entry->present_in_snapshot ? entry->record_link : 0,
                          entry->passed ? entry->place : 0, entry->read});
  }
  return set;
}

bool ReadSet::changed(const Snapshot& snapshot, const Item& item) const {
  const Found found =
      lookup(snapshot.space(), item.node, item.key.view(), item.hash, snapshot.version());
  if (found.visible != (item.record_link != 0)) return true;
  if (!found.visible || found.seen.link.raw == item.record_link) return false;
  if (item.value_read) return true;
  const std::uint64_t place = std::uint64_t{found.seen.chunk} << 32 | (found.seen.shape.place + 1u);
  return item.place != 0 && item.place != place;
}

bool ReadSet::changed(const Snapshot& snapshot) const {
  if (snapshot.version() <= version_) return false;
  for (const auto* items : {&bindings_, &items_}) {
    for (const Item& item : *items) {
      if (changed(snapshot, item)) return true;
    }
  }
  for (const Cleared& cleared : cleared_) {
    if (below_version(snapshot, cleared.node) > version_) return true;
  }
  // Last: a mapping's node may be gone when a binding or what it was cleared with has changed.
  for (const Node& node : nodes_) {
    if (node.only_emptiness) {
      const bool empty = count_entries(snapshot.space(), node.node, snapshot.version()) == 0;
      if (empty != node.seen_empty) return true;
    } else if (structure_version(snapshot, node.node) > version_) {
      return true;
    }
  }
  return false;
}

void ReadSet::add_interests(Interests* interests) const {
  std::unordered_set<std::uint64_t> whole;  // mappings all of whose keys count
  for (const Node& node : nodes_) whole.insert(node.node);
  // Too many keys to name: then all of their mappings', which is still less than everything.
  const bool coarse =
      bindings_.size() + items_.size() + nodes_.size() + cleared_.size() > shm::kWaiterInterests;
  for (const Item& item : items_) {
    if (coarse) whole.insert(item.node);
  }
  for (const auto* items : {&bindings_, &items_}) {
    for (const Item& item : *items) {
      if (whole.contains(item.node)) continue;
      interests->hashes.push_back(shm::interest_exact(shm::key_sort(item.hash)));
    }
  }
  for (const std::uint64_t node : whole) interests->hashes.push_back(shm::interest_node(node));
  for (const Cleared& cleared : cleared_) {
    interests->hashes.push_back(shm::interest_below(shm::key_sort(cleared.hash)));
  }
}

Wait::Wait(Session& session) : session_(session), waiter_(shm::kMaxWaiters) {}

Wait::~Wait() { disarm(); }

const shm::WaiterRecord* Wait::record() const {
  const std::uint32_t waiter = waiter_.load(std::memory_order_acquire);
  return waiter == shm::kMaxWaiters ? nullptr : &session_.space().header().waiting_table[waiter];
}

void Wait::arm(const Interests& interests) {
  if (session_.forked()) {
    throw Error("this wait belongs to the parent process; attach again after fork");
  }
  std::vector<std::uint64_t> hashes = interests.hashes;
  if (interests.everything) {
    hashes.assign(shm::kWaiterInterests + 1, 0);  // more than a record can name
  } else {
    std::sort(hashes.begin(), hashes.end());
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  }
  Session::Internals& in = session_.internals();
  const std::uint32_t known = waiter_.load(std::memory_order_relaxed);
  in.lock(OnSignal::kGiveUp);
  std::optional<std::uint32_t> added;
  bool ours = true;
  if (known != shm::kMaxWaiters) {
    ours = in.arbiter.rearm_waiter(known, hashes);
  } else {
    added = in.arbiter.add_waiter(hashes);
  }
  in.arbiter.unlock();
  if (!ours) {
    waiter_.store(shm::kMaxWaiters, std::memory_order_release);
    throw CoordinatorLost("the coordinator has given this process up for dead; attach again");
  }
  if (known != shm::kMaxWaiters) return;
  if (!added) {
    throw Error("all processes together are in " + std::to_string(shm::kMaxWaiters) +
                " waits on '" + session_.name() +
                "', which is the most there can be; let fewer threads wait, or use asyncio, "
                "whose waits in one process count as one");
  }
  waiter_.store(*added, std::memory_order_release);
}

// Not being able to take the lock leaves the record behind: it costs one look per commit until the
// process is gone.
void Wait::disarm() noexcept {
  const std::uint32_t waiter = waiter_.exchange(shm::kMaxWaiters, std::memory_order_acq_rel);
  if (waiter == shm::kMaxWaiters || session_.forked() || session_.internals().lost) return;
  Session::Internals& in = session_.internals();
  try {
    in.lock(OnSignal::kGoOn);
  } catch (const Error&) {
    return;
  }
  in.arbiter.remove_waiter(waiter);
  in.arbiter.unlock();
}

bool Wait::woken() const {
  const shm::WaiterRecord* own = record();
  return own == nullptr || own->wake.load(std::memory_order_acquire) != 0;
}

bool Wait::sleep(std::uint64_t nanoseconds) const {
  const shm::WaiterRecord* own = record();
  return own == nullptr || shm::futex_wait(own->wake, 0, nanoseconds);
}

// Without the lock, so that a lock which is stuck holds up nobody here. Who sleeps there is of this
// process; should it have been evicted in between, a stranger is woken for nothing.
void Wait::wake() {
  const std::uint32_t waiter = waiter_.load(std::memory_order_acquire);
  if (waiter == shm::kMaxWaiters || session_.forked()) return;
  shm::HalfWord& word = session_.space().writable().waiting_table[waiter].wake;
  word.store(1, std::memory_order_release);
  shm::futex_wake(word);
}

}  // namespace theus::worker
