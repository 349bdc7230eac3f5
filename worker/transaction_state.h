// What a Transaction is made of. Included by worker/*.cpp only.
#pragma once

#include <memory>
#include <vector>

#include "shm/cell_class.h"
#include "worker/arena.h"
#include "worker/internals.h"
#include "worker/transaction.h"

namespace theus::worker {

// Entries by hash, found again within one transaction. Open addressing; the hash of an entry
// already includes its mapping.
class EntryTable {
 public:
  Entry* find(std::uint64_t hash, const Mapping* mapping, KeyView key) const;
  const Entry* find(std::uint64_t hash) const;  // the first with that hash
  void insert(Entry* entry);
  void clear();

 private:
  void grow();
  std::vector<Entry*> slots_ = std::vector<Entry*>(16, nullptr);
  std::size_t count_ = 0;
};

// A held cell of the running transaction.
struct HeldCell {
  shm::Link link;
  std::uint8_t cell_class;
};

// The lists from which a delta is built; kept from one commit to the next for their memory.
struct Plan;  // submit.cpp
class PlanHolder {
 public:
  PlanHolder();
  ~PlanHolder();
  Plan& get() { return *plan_; }

 private:
  std::unique_ptr<Plan> plan_;
};

struct Transaction::State {
  explicit State(Session& its_session) : session(its_session), in(its_session.internals()) {}

  Session& session;
  Session::Internals& in;
  Isolation isolation = Isolation::kSerializable;
  bool open = false;
  std::uint64_t version = 0;
  std::uint32_t pin = 0;
  std::uint64_t hash_seed = 0;

  Arena arena;
  EntryTable table;
  std::vector<Entry*> entries;
  std::vector<Entry*> written;
  std::vector<Mapping*> mappings;
  std::uint32_t writes = 0;  // numbers the writes
  bool reordered = false;    // `written` is not in the order of Entry::order
  Mapping* root = nullptr;
  std::vector<HeldCell> held;
  PlanHolder plan;
  bool prelinked = false;  // parts of the delta are linked already: if it fails they are garbage
  bool had_prelinked = false;  // in the last submission
  Use use = Use::kAny;         // what cells are taken for
  bool gives_way = false;      // to a turn of its own thread
  bool claimed = false;        // a turn before begin(): to be ended even if that never comes
  UserHook user_hook = nullptr;

  void require_open() const;
  void require_startable() const;
  Mapping* new_mapping(Entry* bound_at, std::uint64_t node);
  Entry* make_entry(Mapping* mapping, KeyView key, std::uint64_t hash);
  void adopt_found(Entry* entry, const struct Found& found);
  Entry* entry_of(Mapping* mapping, const struct Found& found);
  Entry* next_shared(Cursor& cursor);
  std::uint64_t base_count(Mapping* mapping);       // entries in the snapshot
  void require_writable(const Entry* entry) const;  // throws Error
  // Makes `entry` hold something new: detaches what it held. Throws Error where writing is wrong.
  void begin_write(Entry* entry);
  void finish_put(Entry* entry, Value value);
  void unlink_new(Entry* entry);
  bool attached(const Mapping* mapping) const;

  // Held cells.
  shm::Link take(std::uint8_t cell_class);
  // A block for `bytes` payload bytes; *data is its writable address, *readable the other one.
  shm::Link take_block(std::uint64_t bytes, bool aligned, char** data, const char** readable);
  void put_raw(Entry* entry, Value::Kind kind, std::string_view bytes);
  void give_back();
  void give_back_held();
  void bury_prelinked() noexcept;

  CommitResult submit();

  // Ending.
  void finish();
  static void count(shm::Word& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
};

// A process submits one delta at a time, and what it links in advance for it is bound or buried
// before the next: held around submit_transaction(). Waits for the turn of whomever it would make
// lose.
class SubmissionTurn {
 public:
  explicit SubmissionTurn(Transaction::State& state);
  ~SubmissionTurn();
  SubmissionTurn(const SubmissionTurn&) = delete;
  SubmissionTurn& operator=(const SubmissionTurn&) = delete;

  // Not null: it must not be submitted, for this entry meets the turn of another.
  const Entry* gives_way() const { return gives_way_; }

 private:
  void take();

  Transaction::State& state_;
  const Entry* gives_way_ = nullptr;
  std::unique_lock<std::mutex> lock_;
};

// Builds the delta of a transaction in its desk (or a leased run) and submits it; see submit.cpp.
CommitResult submit_transaction(Transaction::State& state);

}  // namespace theus::worker
