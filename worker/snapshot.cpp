#include "worker/internals.h"
#include "worker/reader.h"
#include "worker/transaction.h"

namespace theus::worker {

Snapshot::Snapshot(Session& session) : session_(&session) {
  if (session.forked()) {
    throw Error("this session belongs to the parent process; attach again after fork");
  }
  pin_ = session.internals().take_pin(&version_, PinUser::kSnapshot);
  open_ = true;
}

Snapshot::~Snapshot() { close(); }

void Snapshot::close() {
  if (!open_) return;
  open_ = false;
  if (session_->keeps_views()) session_->internals().release_pin(pin_, PinUser::kSnapshot);
}

namespace {
void require_open(bool open) {
  if (!open) throw Error("the snapshot is closed");
}
}  // namespace

std::uint64_t Snapshot::root() const {
  return session_->space().header().root.load(std::memory_order_relaxed);
}

Value Snapshot::find(std::uint64_t node, KeyView key) const {
  require_open(open_);
  const shm::Space& space = session_->space();
  const std::uint64_t seed = space.header().hash_seed.load(std::memory_order_relaxed);
  const Found found = lookup(space, node, key, shm::hash_key(seed, node, key), version_);
  return found.visible ? value_of(space, found.seen) : Value{};
}

std::uint64_t Snapshot::size(std::uint64_t node) const {
  require_open(open_);
  return count_entries(session_->space(), node, version_);
}

bool Snapshot::empty(std::uint64_t node) const {
  Cursor cursor = iterate(node);
  Found found;
  Ends& ends = session_->internals().ends;
  return !next_entry(session_->space(), version_, cursor, &found, &ends);
}

std::uint64_t Snapshot::subtree_version(std::uint64_t node) const {
  require_open(open_);
  const auto* record = session_->space().cell<shm::NodeRecord>(shm::Link(node));
  if (record == nullptr) return kUnknownVersion;
  const std::uint64_t below = record->below_version.load(std::memory_order_acquire);
  return below <= version_ ? below : kUnknownVersion;
}

Snapshot::Cursor Snapshot::iterate(std::uint64_t node, Order order) const {
  require_open(open_);
  Cursor cursor;
  cursor.node = node;
  cursor.backward = order == Order::kBackward;
  return cursor;
}

bool Snapshot::next(Cursor& cursor, KeyView* key, Value* value) const {
  require_open(open_);
  Found found;
  Ends& ends = session_->internals().ends;
  if (!next_entry(session_->space(), version_, cursor, &found, &ends)) return false;
  *key = key_of(*found.key);
  *value = value_of(session_->space(), found.seen);
  return true;
}

}  // namespace theus::worker
