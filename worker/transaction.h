// What one process does with the shared state: Snapshot reads one version, Transaction also writes.
//
// Thread safety: none of these is safe to use from two threads at once; different objects of one
// Session may be used by different threads if the caller serializes the calls (the Python binding
// does so with the GIL). What writes, commits or rolls back may have to wait for the arbitration
// lock; the session's WaitHook is called then, and other objects may be used meanwhile.
//
// Lifetime: every pointer that a Transaction hands out (Mapping*, Entry*, bytes of a Value) lives
// until commit() or rollback() returns. Bytes of a Value from a Snapshot live as long as its pin;
// to keep a block's bytes longer, pin the block (Session::pin_block) before the snapshot closes.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "shm/fold.h"
#include "shm/key.h"
#include "shm/link.h"
#include "worker/session.h"
#include "worker/turn.h"

namespace theus::worker {

using shm::KeyView;

// A value as read. Trivially copyable; owns nothing.
struct Value {
  enum class Kind : std::uint8_t {
    kAbsent,
    kNone,
    kFalse,
    kTrue,
    kInt,      // integer
    kFloat,    // real
    kStr,      // bytes: UTF-8
    kBytes,    // bytes
    kLeaf,     // bytes: an encoded leaf (the encoding is the binding's)
    kMapping,  // node, or (in a transaction) the Mapping of the entry
  };
  Kind kind = Kind::kAbsent;
  union {
    std::int64_t integer = 0;
    double real;
    std::uint64_t node;  // raw Link: the node's id
  };
  const char* data = nullptr;  // kStr, kBytes, kLeaf
  std::uint64_t size = 0;      // bytes
  std::uint64_t record = 0;    // raw Link of the version record: the same value as long as it is
                               // the same number, so a key for caches; 0: this transaction's own
  std::uint64_t block = 0;     // raw Link of the block that `data` lies in; 0: inline

  std::string_view bytes() const { return {data, size}; }
};

enum class Order : std::uint8_t { kForward, kBackward };

// A version, pinned. Reads take no lock, are never aborted and are part of no read set.
class Snapshot {
 public:
  // Pins the newest version; O(1). Throws Error when the process has no pin left.
  explicit Snapshot(Session& session);
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  // Releases the pin; later calls throw Error. Idempotent.
  void close();

  std::uint64_t version() const { return version_; }
  const shm::Space& space() const { return session_->space(); }
  std::uint64_t root() const;                         // node id
  Value find(std::uint64_t node, KeyView key) const;  // kAbsent when there is none
  std::uint64_t size(std::uint64_t node) const;       // entries
  bool empty(std::uint64_t node) const;
  // The newest version in which something at or below `node` changed, or kUnknownVersion when it
  // has changed since this snapshot. Equal numbers: the whole subtree is the same (for caches).
  std::uint64_t subtree_version(std::uint64_t node) const;
  static constexpr std::uint64_t kUnknownVersion = ~std::uint64_t{0};

  // Iteration in insertion order, or from the end. `key` bytes live as long as the snapshot.
  struct Cursor {
    std::uint64_t node = 0;
    std::uint64_t chunk = 0;  // where it rests; 0: at the end that it starts from
    std::uint32_t place = 0;  // the next one, or, backwards, the one that it has passed
    bool done = false;
    bool backward = false;
    std::uint64_t looked = 0;  // places looked at, for tests
  };
  Cursor iterate(std::uint64_t node, Order order = Order::kForward) const;
  bool next(Cursor& cursor, KeyView* key, Value* value) const;  // false: the end

 private:
  friend class Transaction;
  Session* session_;
  std::uint64_t version_ = 0;
  std::uint32_t pin_ = 0;
  bool open_ = false;
};

enum class Isolation : std::uint8_t { kSerializable, kSnapshot };

class ReadSet;  // waiting.h
class Transaction;
struct Mapping;

// One key that a transaction has looked up or written.
struct Entry {
  Mapping* mapping = nullptr;  // the mapping node it lies in
  KeyView key;                 // as first spelled (state's spelling if it existed)
  std::uint64_t hash = 0;
  // As the snapshot has it: raw Links, 0 when absent there.
  std::uint64_t key_link = 0;
  std::uint64_t record_link = 0;
  std::uint64_t seen_version = 0;  // version field of that record
  Value value;                     // current: own write if there is one, else the snapshot's
  Mapping* child = nullptr;        // of a kMapping value, made when first descended into
  bool read = false;               // in the read set
  bool presence_read = false;      // only whether it is there is in the read set
  bool passed = false;             // an iteration passed it: where it stands is, too
  std::uint64_t place = 0;         // in the snapshot's order: unit of the chunk << 32 | place + 1
  bool written = false;            // put or deleted by this transaction
  shm::Fold fold = shm::Fold::kNone;  // written by fold(): then `value` is what the snapshot had
  shm::Number operand;                // with this folded onto it
  void* user = nullptr;               // the binding's: shadow, decoded object; freed by its hook
  // implementation
  Entry* next_new = nullptr;  // order of those inserted by this transaction
  Entry* prev_new = nullptr;
  bool in_new = false;
  bool moved = false;       // deleted and put again: stands at the end of the order
  bool listed = false;      // in the list of written entries
  std::uint32_t order = 0;  // of its write, or of its newest insertion
  bool present_in_snapshot = false;
  std::uint64_t basis = 0;          // version that a merged value was made from; 0: the snapshot
  std::uint64_t merged_record = 0;  // raw Link of the record there; 0: absent
};

// One mapping node as this transaction sees it.
struct Mapping {
  Entry* bound_at = nullptr;  // nullptr: the root
  std::uint64_t node = 0;     // raw Link in the snapshot; 0: new in this transaction
  std::uint32_t resizes = 0;  // inserts and deletes made by this transaction (iteration guard)
  bool detached = false;      // replaced or deleted by this transaction
  // implementation
  std::uint64_t cleared_node = 0;  // `node` before a clear(), and whether
  bool cleared_read = false;       // anything in it had been read by then
  bool read_structure = false;
  bool read_emptiness = false;
  bool seen_empty = false;
  bool counted = false;
  std::uint64_t base_count = 0;  // entries in the snapshot, once counted
  std::uint64_t last_place = 0;  // Entry::place of the snapshot's last entry, if that was seen
  // Before and behind these, the snapshot's entries have all been deleted by this transaction, or
  // moved. They never come back to their places, so an iteration need not pass them again.
  Snapshot::Cursor first, last;
  std::int64_t size_change = 0;
  Entry* first_new = nullptr;  // entries inserted by this transaction, in order
  Entry* last_new = nullptr;
  std::uint32_t spares = 0;  // used while a delta is built
  std::uint64_t spare = 0;
};

struct CommitResult {
  enum class Status : std::uint8_t { kCommitted, kReadOnly, kConflict };
  Status status = Status::kCommitted;
  std::uint64_t version = 0;        // committed version; for kReadOnly the snapshot's
  const Entry* conflict = nullptr;  // the entry that had changed (its path names the conflict)
  const Mapping* conflict_mapping = nullptr;  // or the mapping whose set of keys had changed
  bool at_write = false;  // the write of `conflict` met it, not something that was read
  bool gave_way = false;  // nothing has changed yet: it is the turn of another in this thread
  std::uint64_t winner_version = 0;
  std::uint32_t winner_pid = 0;  // 0: no longer known
};

// Merges what a transaction has written with what others have committed meanwhile.
class Merger {
 public:
  // Called by commit() between two submissions: no lock is held, and exceptions end the commit,
  // rolled back. `newest` is what the entry holds in a version that is pinned during the call,
  // kAbsent included. True: the merged value has been put into the entry.
  virtual bool merge(Transaction& transaction, Entry* entry, const Value& newest) = 0;

 protected:
  ~Merger() = default;
};

class Transaction {
 public:
  explicit Transaction(Session& session);
  ~Transaction();  // rolls back if open
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // Best before begin(): nobody commits what would make this transaction lose until it has ended,
  // for at most so long; for one that has lost too often. Others of this session wait with their
  // commits if these meet what is expected of it or what it has done so far; other processes in any
  // case. Waits as long as the wish's patience, except when it is open already. Throws
  // CoordinatorLost. False: it is another's turn, here or elsewhere.
  bool claim_turn(TurnWish wish);
  // After commit(), until the next begin(): what it has read and written.
  Footprint footprint() const;

  // Pins the newest version and starts. Reusable: begin() may follow commit() or rollback(); what
  // was allocated is kept for the next use.
  void begin(Isolation isolation);
  bool open() const;
  std::uint64_t snapshot_version() const;
  Mapping* root();

  // The entry of `key`, looked up once per transaction; its value may be kAbsent. Does not enter
  // the read set by itself: call read() on it when the program has seen the value (or its
  // absence). The bindings of the mappings on the way are validated in any case.
  Entry* entry(Mapping* mapping, KeyView key);
  const Value& read(Entry* entry) {
    entry->read = true;
    return entry->value;
  }
  // The program has seen whether the key is there, but not its value: `key in mapping`.
  bool contains(Entry* entry) {
    entry->presence_read = true;
    return entry->value.kind != Value::Kind::kAbsent;
  }
  // What the snapshot holds there, whatever this transaction has written.
  Value before(const Entry* entry) const;
  // The mapping that a kMapping entry holds. Never null for such an entry.
  Mapping* child(Entry* entry);

  // Writes. The entry's mapping must not be detached (Error). Each replaces what the entry held.
  void put_none(Entry* entry);
  void put_bool(Entry* entry, bool value);
  void put_int(Entry* entry, std::int64_t value);
  void put_float(Entry* entry, double value);
  void put_str(Entry* entry, std::string_view utf8);
  void put_bytes(Entry* entry, std::string_view bytes);
  Mapping* put_mapping(Entry* entry);  // a new, empty mapping node
  // Folds a number onto the newest one at commit, whatever that is then: no conflict with others
  // who write it, as long as it is not read (read() turns it into an ordinary write). From an
  // absent entry it starts with the operand. The entry shows its own change at once. False, and
  // nothing is done: the entry holds no int or float, the sum does not fit into 64 bits, or it was
  // folded in another way before.
  bool fold(Entry* entry, shm::Fold how, shm::Number operand);
  // An encoded leaf of `size` bytes, encoded by the caller straight into the block that is
  // returned: shared memory, private to this process until commit. `aligned`: at 64 bytes (for
  // arrays); otherwise at 16, which saves 48 bytes. Throws CapacityError. The entry reads as that
  // leaf at once: its value's data is the same memory at its read-only address.
  char* put_leaf(Entry* entry, std::uint64_t size, bool aligned = true);
  // True if there was something to delete. A deleted mapping is detached, with all below it.
  bool erase(Entry* entry);
  // All entries of `mapping`, in one operation.
  void clear(Mapping* mapping);

  // Enter the read set: the count, the emptiness.
  std::uint64_t size(Mapping* mapping);
  bool empty(Mapping* mapping);

  // Iteration: own inserts come last, own deletes are skipped. The keys passed enter the read set
  // as keys (not their values: call read() for that); reaching the end depends on the whole set,
  // and coming from the end on which entry is the last.
  // next() throws Error("changed size during iteration") after an insert or delete of this
  // transaction in that mapping.
  struct Cursor {
    Mapping* mapping = nullptr;
    Snapshot::Cursor shared;
    Entry* pending = nullptr;
    std::uint32_t resizes = 0;
    bool in_shared = false;  // among the snapshot's entries
    bool at_end = false;     // all that it has passed of them is gone
  };
  Cursor iterate(Mapping* mapping, Order order = Order::kForward);
  Entry* next(Cursor& cursor);  // nullptr: the end

  // True if commit() would submit something.
  bool has_writes() const;
  // A copy of what the program has read so far; it outlives the transaction.
  ReadSet read_set() const;

  // Called for each entry whose `user` is not null, when the transaction ends.
  using UserHook = void (*)(void* user);
  void set_user_hook(UserHook hook);

  // Submits. Blocks until decided. Throws CapacityError (state intact, transaction rolled back),
  // CoordinatorLost, CommitUnknown, Error; conflicts are a result, no exception. Afterwards the
  // transaction is over, and the pointers in the result live until the next begin().
  //
  // `merger` may make entries whose write has met a conflict from the newest version anew; then the
  // delta is submitted again, for a bounded number of times.
  //
  // If what it writes meets the turn of another transaction of this session, it waits until that is
  // over. It cannot wait for one of its own thread: then it goes on, or, with `gives_way`, is a
  // conflict.
  CommitResult commit(Merger* merger = nullptr, bool gives_way = false);
  void rollback();

  struct State;  // worker/transaction_state.h

 private:
  CommitResult submit_merged(Merger& merger, CommitResult result);
  bool merge(Merger& merger, const Entry* refused);

  std::unique_ptr<State> state_;
};

}  // namespace theus::worker
