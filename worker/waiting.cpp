#include "worker/waiting.h"

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
    const Found found = lookup(snapshot.space(), node, key, hash_of(snapshot, node, key),
                               snapshot.version());
    if (!found.visible) return structure_version(snapshot, node) > since;
    // Version 0: it came with its mapping, whose binding is older or younger than `since` for both.
    if (found.seen.version > since) return true;
    if (found.seen.shape.kind != shm::ValueKind::kNode) return false;
    node = found.seen.value;
  }
  return below_version(snapshot, node) > since;
}

void add_interests(const Snapshot& snapshot, const WatchedPath& path, Interests* interests) {
  if (path.empty()) {
    // Everything: more than a record can name.
    interests->resize(shm::kWaiterInterests + 1, 0);
    return;
  }
  std::uint64_t node = snapshot.root();
  for (std::size_t i = 0; i < path.size(); ++i) {
    const KeyView key = path[i].view();
    const std::uint64_t hash = hash_of(snapshot, node, key);
    const std::uint64_t sort = shm::key_sort(hash);
    const Found found = lookup(snapshot.space(), node, key, hash, snapshot.version());
    const bool goes_on = found.visible && found.seen.shape.kind == shm::ValueKind::kNode;
    if (i + 1 == path.size()) {
      interests->push_back(shm::interest_below(sort));
      return;
    }
    interests->push_back(shm::interest_exact(sort));
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
    if (mapping->node == 0) continue;
    if (binding != nullptr && binding->present_in_snapshot) {
      set.bindings_.push_back({binding->mapping->node, OwnKey(binding->key), binding->hash,
                               binding->record_link, 0, true});
    }
    if (mapping->read_structure || mapping->read_emptiness) {
      set.nodes_.push_back({mapping->node, !mapping->read_structure, mapping->seen_empty});
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
  const std::uint64_t place =
      std::uint64_t{found.seen.chunk} << 32 | (found.seen.shape.place + 1u);
  return item.place != 0 && item.place != place;
}

bool ReadSet::changed(const Snapshot& snapshot) const {
  if (snapshot.version() <= version_) return false;
  for (const auto* items : {&bindings_, &items_}) {
    for (const Item& item : *items) {
      if (changed(snapshot, item)) return true;
    }
  }
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
  for (const auto* items : {&bindings_, &items_}) {
    for (const Item& item : *items) {
      interests->push_back(shm::interest_exact(shm::key_sort(item.hash)));
    }
  }
  for (const Node& node : nodes_) interests->push_back(shm::interest_node(node.node));
}

Wait::~Wait() { disarm(); }

void Wait::arm(const Interests& interests) {
  if (session_.forked()) {
    throw Error("this wait belongs to the parent process; attach again after fork");
  }
  Session::Internals& in = session_.internals();
  in.lock();
  bool ours = true;
  if (waiter_) {
    ours = in.arbiter.rearm_waiter(*waiter_, interests);
  } else {
    waiter_ = in.arbiter.add_waiter(interests);
  }
  in.arbiter.unlock();
  if (!ours) {
    waiter_.reset();
    throw CoordinatorLost("the coordinator has given this process up for dead; attach again");
  }
  if (!waiter_) {
    throw Error("all processes together are in " + std::to_string(shm::kMaxWaiters) +
                " waits on '" + session_.name() +
                "', which is the most there can be; let fewer threads wait, or use asyncio, "
                "whose waits in one process count as one");
  }
}

// Not being able to take the lock leaves the record behind: it costs one look per commit until the
// process is gone.
void Wait::disarm() noexcept {
  if (!waiter_ || session_.forked() || session_.internals().lost) return;
  Session::Internals& in = session_.internals();
  try {
    in.lock();
  } catch (const Error&) {
    waiter_.reset();
    return;
  }
  in.arbiter.remove_waiter(*waiter_);
  in.arbiter.unlock();
  waiter_.reset();
}

bool Wait::woken() const {
  if (!waiter_) return true;
  const shm::WaiterRecord& record = session_.space().header().waiting_table[*waiter_];
  return record.wake.load(std::memory_order_acquire) != 0;
}

bool Wait::sleep(std::uint64_t nanoseconds) const {
  if (!waiter_) return true;
  const shm::WaiterRecord& record = session_.space().header().waiting_table[*waiter_];
  return shm::futex_wait(record.wake, 0, nanoseconds);
}

void Wait::wake() {
  if (!waiter_ || session_.forked()) return;
  Session::Internals& in = session_.internals();
  in.lock();
  in.arbiter.wake_waiter(*waiter_);
  in.arbiter.unlock();
}

}  // namespace theus::worker
