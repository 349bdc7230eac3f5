// Sleeping until something changes. docs/waiting.md has the protocol; the parts are here because a
// wait is the caller's loop: it alone knows when a lock of its own (Python's GIL) may be let go.
//
//   wait.arm(interests);          // serialized with other calls on the session
//   if (changed) return;          // by a Snapshot that is taken after arm() and closed again
//   wait.sleep(nanoseconds);      // without any lock
//   (again)
//
// Thread safety: as for Transaction, except Wait::sleep, Wait::woken and Wait::wake, which touch
// nothing but the word that is slept on.
#pragma once

#include <atomic>
#include <cstdint>
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
struct Interests {
  std::vector<std::uint64_t> hashes;
  bool everything = false;
};

// True if the path, anything below it or an ancestor of it has changed after `since`, up to the
// snapshot's version. Where the path does not exist it may be true for a change beside it.
bool changed_since(const Snapshot& snapshot, const WatchedPath& path, std::uint64_t since);
// What to arm a Wait with for that path, as it stands in the snapshot.
void add_interests(const Snapshot& snapshot, const WatchedPath& path, Interests* interests);

// What a transaction has read. Made by Transaction::read_set().
class ReadSet {
 public:
  bool empty() const { return items_.empty() && nodes_.empty() && !cleared_read_; }
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
  struct Cleared {
    std::uint64_t node, hash;  // its id, and the hash of the key that it is bound to
  };
  // Mappings that the transaction itself has cleared: what it had read in them is forgotten, so
  // whatever changes in them counts.
  std::vector<Cleared> cleared_;
  bool cleared_read_ = false;  // it had read something in one of them

  bool changed(const Snapshot& snapshot, const Item& item) const;
};

// One wait of this process. Registered from the first arm() to disarm().
class Wait {
 public:
  explicit Wait(Session& session);
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
  // Wakes whoever sleeps in it, from another thread; takes no lock. A wake-up that meets arm() is
  // lost: say first what it is for, and look at that between arm() and sleep().
  void wake();

 private:
  const shm::WaiterRecord* record() const;

  Session& session_;
  std::atomic<std::uint32_t> waiter_;  // its record's number; none: kMaxWaiters
};

}  // namespace theus::worker
