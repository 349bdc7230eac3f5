#include "worker/transaction.h"

#include <unistd.h>

#include <bit>
#include <cstring>
#include <utility>

#include "worker/footprint.h"
#include "worker/reader.h"
#include "worker/transaction_state.h"

namespace theus::worker {

using shm::Link;

namespace {
constexpr int kBuriedAtOnce = 256;
}  // namespace

// --- EntryTable

Entry* EntryTable::find(std::uint64_t hash, const Mapping* mapping, KeyView key) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = hash & mask; slots_[i] != nullptr; i = (i + 1) & mask) {
    Entry* entry = slots_[i];
    if (entry->hash == hash && entry->mapping == mapping &&
        entry->key.canonical() == key.canonical()) {
      return entry;
    }
  }
  return nullptr;
}

const Entry* EntryTable::find(std::uint64_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = hash & mask; slots_[i] != nullptr; i = (i + 1) & mask) {
    if (slots_[i]->hash == hash) return slots_[i];
  }
  return nullptr;
}

void EntryTable::insert(Entry* entry) {
  if ((count_ + 1) * 2 > slots_.size()) grow();
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = entry->hash & mask;
  while (slots_[i] != nullptr) i = (i + 1) & mask;
  slots_[i] = entry;
  ++count_;
}

void EntryTable::grow() {
  std::vector<Entry*> old = std::move(slots_);
  slots_.assign(old.size() * 2, nullptr);
  count_ = 0;
  for (Entry* entry : old) {
    if (entry != nullptr) insert(entry);
  }
}

void EntryTable::clear() {
  if (count_ == 0) return;
  constexpr std::size_t kKept = 4096;
  if (slots_.size() > kKept) slots_.resize(kKept);
  std::fill(slots_.begin(), slots_.end(), nullptr);
  count_ = 0;
}

// --- State

void Transaction::State::require_open() const {
  if (!open) throw Error("the transaction is over");
  if (session.forked()) {
    throw Error("this transaction belongs to the parent process; start one of its own after fork");
  }
}

void Transaction::State::require_startable() const {
  if (open) throw Error("the transaction has already begun");
  if (session.forked()) {
    throw Error("this session belongs to the parent process; attach again after fork");
  }
}

Mapping* Transaction::State::new_mapping(Entry* bound_at, std::uint64_t node) {
  auto* mapping = arena.make<Mapping>();
  mapping->bound_at = bound_at;
  mapping->node = node;
  mappings.push_back(mapping);
  return mapping;
}

Entry* Transaction::State::make_entry(Mapping* mapping, KeyView key, std::uint64_t hash) {
  auto* entry = arena.make<Entry>();
  entry->mapping = mapping;
  entry->key = KeyView(arena.copy(key.whole()), key.size, key.compared);
  entry->hash = hash;
  entries.push_back(entry);
  table.insert(entry);
  return entry;
}

void Transaction::State::adopt_found(Entry* entry, const Found& found) {
  entry->key_link = found.key_link.raw;
  if (!found.visible) return;
  entry->present_in_snapshot = true;
  entry->record_link = found.seen.link.raw;
  entry->seen_version = found.seen.version;
  entry->place = std::uint64_t{found.seen.chunk} << 32 | (found.seen.shape.place + 1u);
  entry->value = value_of(in.space, found.seen);
}

Entry* Transaction::State::entry_of(Mapping* mapping, const Found& found) {
  const KeyView key = key_of(*found.key);
  const std::uint64_t hash = shm::hash_key(hash_seed, mapping->node, key);
  if (Entry* known = table.find(hash, mapping, key)) return known;
  Entry* entry = make_entry(mapping, key, hash);
  adopt_found(entry, found);
  return entry;
}

bool Transaction::State::attached(const Mapping* mapping) const {
  for (; mapping != nullptr; mapping = mapping->bound_at->mapping) {
    if (mapping->detached) return false;
    if (mapping->bound_at == nullptr) return true;
  }
  return true;
}

void Transaction::State::require_writable(const Entry* entry) const {
  require_open();
  if (!attached(entry->mapping)) {
    throw Error("this mapping has been replaced or deleted in the same transaction");
  }
}

void Transaction::State::begin_write(Entry* entry) {
  require_writable(entry);
  if (entry->child != nullptr) {
    entry->child->detached = true;
    entry->child = nullptr;
  }
  entry->fold = shm::Fold::kNone;
  if (!entry->listed) {
    entry->listed = true;
    entry->order = ++writes;
    written.push_back(entry);
  }
}

void Transaction::State::unlink_new(Entry* entry) {
  if (!entry->in_new) return;
  Mapping* mapping = entry->mapping;
  (entry->prev_new != nullptr ? entry->prev_new->next_new : mapping->first_new) = entry->next_new;
  (entry->next_new != nullptr ? entry->next_new->prev_new : mapping->last_new) = entry->prev_new;
  entry->prev_new = entry->next_new = nullptr;
  entry->in_new = false;
}

void Transaction::State::finish_put(Entry* entry, Value value) {
  Mapping* mapping = entry->mapping;
  if (entry->value.kind == Value::Kind::kAbsent) {
    ++mapping->resizes;
    ++mapping->size_change;
    // Deleted and put again, it stands behind what came between, as in a dict.
    reordered = reordered || entry->order != writes;
    entry->order = ++writes;
    entry->moved = entry->present_in_snapshot;
    entry->in_new = true;
    entry->prev_new = mapping->last_new;
    entry->next_new = nullptr;
    (mapping->last_new != nullptr ? mapping->last_new->next_new : mapping->first_new) = entry;
    mapping->last_new = entry;
  }
  entry->written = true;
  value.record = 0;
  entry->value = value;
}

Link Transaction::State::take(std::uint8_t cell_class) {
  in.require_place();
  const Link link = in.stock.take(cell_class, use);
  held.push_back({link, cell_class});
  return link;
}

Link Transaction::State::take_block(std::uint64_t bytes, bool aligned, char** data,
                                    const char** readable) {
  const std::uint64_t payload = aligned ? shm::kAlignedPayload : shm::kBlockHeaderBytes;
  const std::uint8_t cell_class = shm::block_class(payload + bytes);
  Link link;
  if (cell_class == shm::kRunClass) {
    link = in.stock.take_run(payload + bytes);
    held.push_back({link, cell_class});
  } else {
    link = take(cell_class);
  }
  auto* block = in.space.writable_cell<shm::Block>(link.unit());
  block->shape.store(payload << 56 | bytes, std::memory_order_release);
  *data = reinterpret_cast<char*>(block) + payload;
  *readable = reinterpret_cast<const char*>(in.space.readable_base() + link.offset() + payload);
  return link;
}

// Text or plain bytes: inline as long as they fit into a record. The block first: if there is none
// to be had, nothing has changed.
void Transaction::State::put_raw(Entry* entry, Value::Kind kind, std::string_view bytes) {
  require_writable(entry);
  Value value;
  value.kind = kind;
  value.size = bytes.size();
  if (bytes.size() <= shm::kWideInlineBytes) {
    value.data = arena.copy(bytes);
  } else {
    char* data = nullptr;
    value.block = take_block(bytes.size(), false, &data, &value.data).raw;
    std::memcpy(data, bytes.data(), bytes.size());
  }
  begin_write(entry);
  finish_put(entry, value);
}

// Never throws: a lock that cannot be had for half a minute costs the session its place, and
// eviction finds what was not given back.
void Transaction::State::give_back() {
  try {
    in.release_pin(pin, PinUser::kTransaction);
    if (!in.lost) give_back_held();
  } catch (const CoordinatorLost&) {
    in.lost = true;
  }
  held.clear();
}

// Nothing is left to bury after a commit: what it linked in advance is bound.
void Transaction::State::bury_prelinked() noexcept {
  try {
    while (prelinked && !in.lost) {
      in.lock(OnSignal::kGoOn);
      for (int i = 0; prelinked && i < kBuriedAtOnce; ++i) {
        prelinked = in.arbiter.abandon_prelinked();
      }
      in.arbiter.unlock();
    }
  } catch (const CoordinatorLost&) {
    in.lost = true;
  }
  prelinked = false;
}

void Transaction::State::give_back_held() {
  for (const HeldCell& cell : held) {
    if (in.stock.held(cell.link)) in.stock.give_back(cell.link, cell.cell_class);
  }
  held.clear();
}

void Transaction::State::finish() {
  if (!open) return;
  open = false;
  if (!session.forked()) {
    give_back();
    in.turns.end(*this);
  }
  if (user_hook != nullptr) {
    for (Entry* entry : entries) {
      if (entry->user == nullptr) continue;
      void* user = entry->user;
      entry->user = nullptr;
      user_hook(user);
    }
  }
}

CommitResult Transaction::State::submit() {
  const SubmissionTurn turn(*this);
  if (const Entry* entry = turn.gives_way()) {
    CommitResult result;
    result.status = CommitResult::Status::kConflict;
    result.conflict = entry;
    result.gave_way = true;
    result.winner_pid = static_cast<std::uint32_t>(getpid());
    return result;
  }
  const CommitResult result = submit_transaction(*this);
  had_prelinked = prelinked;
  return result;
}

// --- Transaction

Transaction::Transaction(Session& session) : state_(std::make_unique<State>(session)) {}

Transaction::~Transaction() { rollback(); }

bool Transaction::claim_turn(TurnWish wish) {
  if (open()) return state_->in.turns.claim_now(*state_, wish.nanoseconds);
  state_->require_startable();
  state_->claimed = true;
  return state_->in.turns.claim(*state_, std::move(wish));
}

Footprint Transaction::footprint() const { return footprint_of(*state_); }

void Transaction::begin(Isolation isolation) {
  State& s = *state_;
  s.require_startable();
  s.arena.reset();
  s.table.clear();
  s.entries.clear();
  s.written.clear();
  s.mappings.clear();
  s.writes = 0;
  s.reordered = false;
  s.use = Use::kAny;
  s.pin = s.in.take_pin(&s.version, PinUser::kTransaction);
  s.isolation = isolation;
  s.hash_seed = s.in.space.header().hash_seed.load(std::memory_order_relaxed);
  s.root = s.new_mapping(nullptr, s.in.space.header().root.load(std::memory_order_relaxed));
  s.open = true;
  s.claimed = false;  // finish() ends it from here on
}

bool Transaction::open() const { return state_->open; }
std::uint64_t Transaction::snapshot_version() const { return state_->version; }

Mapping* Transaction::root() {
  state_->require_open();
  return state_->root;
}

Entry* Transaction::entry(Mapping* mapping, KeyView key) {
  State& s = *state_;
  s.require_open();
  // A new mapping has no id yet; its address serves as one within this transaction.
  const std::uint64_t node =
      mapping->node != 0 ? mapping->node : reinterpret_cast<std::uintptr_t>(mapping);
  const std::uint64_t hash = shm::hash_key(s.hash_seed, node, key);
  if (Entry* known = s.table.find(hash, mapping, key)) return known;
  Found found;
  if (mapping->node != 0) found = lookup(s.in.space, mapping->node, key, hash, s.version);
  Entry* entry = s.make_entry(mapping, found.visible ? key_of(*found.key) : key, hash);
  s.adopt_found(entry, found);
  return entry;
}

Mapping* Transaction::child(Entry* entry) {
  State& s = *state_;
  s.require_open();
  if (entry->value.kind != Value::Kind::kMapping) throw Error("the entry holds no mapping");
  if (entry->child == nullptr) entry->child = s.new_mapping(entry, entry->value.node);
  return entry->child;
}

void Transaction::put_none(Entry* entry) {
  state_->begin_write(entry);
  Value value;
  value.kind = Value::Kind::kNone;
  state_->finish_put(entry, value);
}

void Transaction::put_bool(Entry* entry, bool truth) {
  state_->begin_write(entry);
  Value value;
  value.kind = truth ? Value::Kind::kTrue : Value::Kind::kFalse;
  state_->finish_put(entry, value);
}

void Transaction::put_int(Entry* entry, std::int64_t integer) {
  state_->begin_write(entry);
  Value value;
  value.kind = Value::Kind::kInt;
  value.integer = integer;
  state_->finish_put(entry, value);
}

void Transaction::put_float(Entry* entry, double real) {
  state_->begin_write(entry);
  Value value;
  value.kind = Value::Kind::kFloat;
  value.real = real;
  state_->finish_put(entry, value);
}

void Transaction::put_str(Entry* entry, std::string_view utf8) {
  state_->put_raw(entry, Value::Kind::kStr, utf8);
}

void Transaction::put_bytes(Entry* entry, std::string_view bytes) {
  state_->put_raw(entry, Value::Kind::kBytes, bytes);
}

Mapping* Transaction::put_mapping(Entry* entry) {
  state_->begin_write(entry);
  Value value;
  value.kind = Value::Kind::kMapping;
  value.node = 0;
  state_->finish_put(entry, value);
  entry->child = state_->new_mapping(entry, 0);
  return entry->child;
}

char* Transaction::put_leaf(Entry* entry, std::uint64_t size, bool aligned) {
  State& s = *state_;
  s.require_writable(entry);
  // The block first: if there is none to be had, nothing has changed.
  Value value;
  value.kind = Value::Kind::kLeaf;
  value.size = size;
  char* data = nullptr;
  value.block = s.take_block(size, aligned, &data, &value.data).raw;
  s.begin_write(entry);
  s.finish_put(entry, value);
  return data;
}

bool Transaction::erase(Entry* entry) {
  State& s = *state_;
  s.require_open();
  if (entry->value.kind == Value::Kind::kAbsent) return false;
  s.begin_write(entry);
  s.unlink_new(entry);
  ++entry->mapping->resizes;
  --entry->mapping->size_change;
  entry->written = true;
  entry->moved = false;
  entry->value = Value{};
  return true;
}

void Transaction::clear(Mapping* mapping) {
  State& s = *state_;
  s.require_open();
  if (mapping->bound_at == nullptr) {
    // The root has no binding that could be replaced: its entries go one by one.
    std::vector<Entry*> all;
    Cursor cursor = iterate(mapping);
    while (Entry* each = next(cursor)) all.push_back(each);
    for (Entry* each : all) erase(each);
    return;
  }
  // One operation, whatever the size: the binding gets a new, empty node, and this mapping goes on
  // as that one. Entries that are already known keep their address and become absent.
  Entry* binding = mapping->bound_at;
  binding->child = nullptr;  // so that begin_write does not detach it
  try {
    s.begin_write(binding);
  } catch (...) {
    binding->child = mapping;
    throw;
  }
  Value value;
  value.kind = Value::Kind::kMapping;
  s.finish_put(binding, value);
  binding->child = mapping;
  for (Entry* entry : s.entries) {
    if (entry->mapping != mapping) continue;
    if (entry->child != nullptr) entry->child->detached = true;
    entry->child = nullptr;
    s.unlink_new(entry);
    entry->key_link = entry->record_link = entry->seen_version = 0;
    entry->present_in_snapshot = entry->moved = entry->written = false;
    entry->fold = shm::Fold::kNone;
    if (entry->read || entry->presence_read) mapping->cleared_read = true;
    entry->read = entry->presence_read = false;
    entry->value = Value{};
    // Found again under the new identity.
    entry->hash = shm::hash_key(s.hash_seed, reinterpret_cast<std::uintptr_t>(mapping), entry->key);
  }
  if (mapping->node != 0) mapping->cleared_node = mapping->node;
  if (mapping->read_structure || mapping->read_emptiness) mapping->cleared_read = true;
  mapping->node = 0;
  mapping->size_change = 0;
  mapping->last_place = 0;
  mapping->counted = false;
  mapping->read_structure = mapping->read_emptiness = false;
  ++mapping->resizes;
  s.table.clear();
  for (Entry* entry : s.entries) s.table.insert(entry);
}

std::uint64_t Transaction::State::base_count(Mapping* mapping) {
  if (!mapping->counted) {
    mapping->base_count = count_entries(in.space, mapping->node, version);
    mapping->counted = true;
  }
  return mapping->base_count;
}

std::uint64_t Transaction::size(Mapping* mapping) {
  State& s = *state_;
  s.require_open();
  std::uint64_t base = 0;
  if (mapping->node != 0) {
    mapping->read_structure = true;
    base = s.base_count(mapping);
  }
  return base + static_cast<std::uint64_t>(mapping->size_change);
}

bool Transaction::empty(Mapping* mapping) {
  State& s = *state_;
  s.require_open();
  std::uint64_t base = 0;
  if (mapping->node != 0) {
    base = s.base_count(mapping);
    if (mapping->size_change == 0) {
      mapping->read_emptiness = true;
      mapping->seen_empty = base == 0;
    } else {
      // Whether it is empty hangs on the very count once this transaction has changed it.
      mapping->read_structure = true;
    }
  }
  return base + static_cast<std::uint64_t>(mapping->size_change) == 0;
}

Transaction::Cursor Transaction::iterate(Mapping* mapping, Order order) {
  state_->require_open();
  const bool backward = order == Order::kBackward;
  Cursor cursor;
  cursor.mapping = mapping;
  cursor.shared = backward ? mapping->last : mapping->first;
  cursor.shared.node = mapping->node;
  cursor.shared.done = mapping->node == 0;
  cursor.shared.backward = backward;
  cursor.shared.looked = 0;
  cursor.resizes = mapping->resizes;
  cursor.in_shared = !backward;
  cursor.at_end = true;
  cursor.pending = backward ? mapping->last_new : nullptr;
  return cursor;
}

// The next of the snapshot's entries that are still at their places.
Entry* Transaction::State::next_shared(Cursor& cursor) {
  Mapping* mapping = cursor.mapping;
  const bool backward = cursor.shared.backward;
  Found found;
  while (next_entry(in.space, version, cursor.shared, &found, &in.ends)) {
    Entry* entry = entry_of(mapping, found);
    if (backward && mapping->last_place == 0) mapping->last_place = entry->place;
    // Deleted by this transaction, or deleted and put again: then it comes with the new ones.
    if (entry->value.kind == Value::Kind::kAbsent || entry->in_new) {
      if (cursor.at_end) (backward ? mapping->last : mapping->first) = cursor.shared;
      continue;
    }
    cursor.at_end = false;
    entry->presence_read = entry->passed = true;
    return entry;
  }
  if (mapping->node != 0) mapping->read_structure = true;
  return nullptr;
}

Entry* Transaction::next(Cursor& cursor) {
  State& s = *state_;
  s.require_open();
  Mapping* mapping = cursor.mapping;
  if (cursor.resizes != mapping->resizes) {
    throw Error("mapping changed size during iteration");
  }
  const bool backward = cursor.shared.backward;
  if (!backward && cursor.in_shared) {
    if (Entry* entry = s.next_shared(cursor)) return entry;
    cursor.in_shared = false;
    cursor.pending = mapping->first_new;
  }
  if (Entry* entry = cursor.pending) {
    cursor.pending = backward ? entry->prev_new : entry->next_new;
    // That it is the last hangs on its being new; going forward, the whole order has been read.
    if (backward) entry->presence_read = true;
    return entry;
  }
  return backward ? s.next_shared(cursor) : nullptr;
}

bool Transaction::has_writes() const { return !state_->written.empty(); }

void Transaction::set_user_hook(UserHook hook) { state_->user_hook = hook; }

CommitResult Transaction::commit(Merger* merger, bool gives_way) {
  State& s = *state_;
  s.require_open();
  s.gives_way = gives_way;
  if (s.written.empty()) {
    CommitResult result;
    result.status = CommitResult::Status::kReadOnly;
    result.version = s.version;
    s.count(s.in.desk->counters.read_only);
    s.finish();
    return result;
  }
  CommitResult result;
  try {
    result = s.submit();
    if (merger != nullptr && result.at_write) result = submit_merged(*merger, result);
  } catch (...) {
    s.finish();
    throw;
  }
  if (result.status == CommitResult::Status::kConflict) s.count(s.in.desk->counters.conflicts);
  s.finish();
  return result;
}

void Transaction::rollback() {
  State& s = *state_;
  if (!s.open) {
    if (std::exchange(s.claimed, false) && !s.session.forked()) s.in.turns.end(s);
    return;
  }
  if (!s.session.forked() && !s.written.empty()) {
    s.count(s.in.desk->counters.rollbacks);
  }
  s.finish();
}

}  // namespace theus::worker
