// Sleeping until something changes. docs/waiting.md has the protocol; the parts are here because a
// wait is the caller's loop: it alone knows when a lock of its own (Python's GIL) may be let go.
//
//   wait.arm(interests);          // serialized with other calls on the session
//   if (changed) return;          // by a Snapshot that is taken after arm()
//   wait.sleep(nanoseconds);      // without any lock
//   (again)
//
// Thread safety: as for Transaction, except Wait::sleep and Wait::woken, which touch nothing but
// the word they sleep on.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::worker {

// A key that outlives its snapshot.
struct OwnKey {
  std::string bytes;
  std::uint16_t compared = 0;

  explicit OwnKey(KeyView key) : bytes(key.whole()), compared(key.compared) {}
  KeyView view() const {
    return {bytes.data(), static_cast<std::uint16_t>(bytes.size()), compared};
  }
};
using WatchedPath = std::vector<OwnKey>;  // from the root; empty: the whole state
using Interests = std::vector<std::uint64_t>;

// True if the path, anything below it or an ancestor of it has changed after `since`, up to the
// snapshot's version. Where the path does not exist it may be true for a change beside it.
bool changed_since(const Snapshot& snapshot, const WatchedPath& path, std::uint64_t since);
// What to arm a Wait with for that path, as it stands in the snapshot.
void add_interests(const Snapshot& snapshot, const WatchedPath& path, Interests* interests);

// What a transaction has read. Made by Transaction::read_set().
class ReadSet {
 public:
  bool empty() const { return items_.empty() && nodes_.empty(); }
  // True if a transaction on the snapshot's version would have read something else.
  bool changed(const Snapshot& snapshot) const;
  void add_interests(Interests* interests) const;

 private:
  friend class Transaction;
  struct Item {
    std::uint64_t node;
    OwnKey key;
    std::uint64_t hash;
    std::uint64_t record_link;  // 0: it was absent
    std::uint64_t place;        // 0: only its presence was read; otherwise where it stood
    bool value_read;
  };
  struct Node {
    std::uint64_t node;
    bool only_emptiness;
    bool seen_empty;
  };
  std::uint64_t version_ = 0;
  std::vector<Item> bindings_;  // of the mappings on the way; read by themselves they are no reads
  std::vector<Item> items_;
  std::vector<Node> nodes_;

  bool changed(const Snapshot& snapshot, const Item& item) const;
};

// One wait of this process. Registered from the first arm() to disarm().
class Wait {
 public:
  explicit Wait(Session& session) : session_(session) {}
  ~Wait();
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  // Commits that touch an interest wake it from here on. Throws Error when the coordinator's table
  // of waits is full, CoordinatorLost.
  void arm(const Interests& interests);
  void disarm() noexcept;
  // Sleeps until a commit has touched it, at most so long. Early on a signal. False: time is up.
  bool sleep(std::uint64_t nanoseconds) const;
  bool woken() const;
  // Wakes whoever sleeps in it, from another thread.
  void wake();

 private:
  Session& session_;
  std::optional<std::uint32_t> waiter_;
};

}  // namespace theus::worker
