// The cells that this process owns and may fill: taken without any lock, bought in whole extents.
//
// A cell that the stock gives out is *held* (layout.h) until it is submitted and linked, or given
// back. After the answer to a submission, what is still held was not used.
//
// A full state can be emptied. What a delta that only frees needs (Use::kFreeing) comes from the
// reserve when there is nothing else: room for its message and its journal, which goes back at
// once, and the node and record that an emptied mapping is bound to. Of the latter two classes each
// stock keeps a few cells for that purpose, so that the reserve is seldom asked for cells.
//
// Thread safety: none; calls are serialized by the session's user.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "shm/arbiter.h"
#include "shm/cell_class.h"
#include "shm/space.h"
#include "worker/session.h"

namespace theus::worker {

// Another process has lent what is wanted from the reserve, and gives it back soon.
struct ReserveLent : CapacityError {
  using CapacityError::CapacityError;
};

enum class Use : std::uint8_t { kAny, kFreeing };
// What a signal does to a wait for the lock: where what was begun has to be finished, nothing.
enum class OnSignal : std::uint8_t { kGoOn, kGiveUp };

class Stock {
 public:
  // `lock`: takes the arbitration lock (the stock releases it through the arbiter). Other threads
  // may use the stock while it waits.
  using Lock = std::function<void(OnSignal)>;
  Stock(const shm::Space& space, shm::Arbiter& arbiter, Lock lock);

  // A free cell of the class, its generation already raised: fill it, then link to it with what is
  // returned. Throws CapacityError when the state is full and nothing can be reclaimed.
  shm::Link take(std::uint8_t cell_class, Use use = Use::kAny);
  // A run of extents with room for `bytes` bytes. As take(). With kFreeing (for the time of one
  // submission) it throws ReserveLent when the reserve has room for it as soon as another process
  // gives back what it has of it.
  shm::Link take_run(std::uint64_t bytes, Use use = Use::kAny);

  // True if the cell was not used by the delta it was prepared for.
  bool held(shm::Link cell) const;
  // Takes a held cell back.
  void give_back(shm::Link cell, std::uint8_t cell_class);

  // Makes the index directory large enough for `keys` more keys, as far as memory allows.
  void grow_index(std::uint64_t keys);

 private:
  enum class Tried : std::uint8_t { kGranted, kFull, kLent };
  static std::size_t kept(std::uint8_t cell_class);
  static std::vector<std::uint32_t> room_for(std::uint8_t cell_class, std::size_t times);
  void add(const std::vector<std::uint32_t>& cells, std::uint8_t cell_class);
  void refill(std::uint8_t cell_class, Use use);
  void return_unused(std::uint8_t except);  // everything but one class, for want of memory
  std::uint64_t grant(const shm::Arbiter::GrantRequest& wanted, Use use);
  Tried try_grant(shm::Arbiter::GrantRequest request, std::uint64_t* extent, std::string* why);
  void add_extent(std::uint64_t extent, std::uint8_t cell_class);
  shm::Link hold(std::uint32_t unit);

  const shm::Space& space_;
  shm::Arbiter& arbiter_;
  Lock lock_;
  std::array<std::vector<std::uint32_t>, shm::kCellClassCount> free_;
};

}  // namespace theus::worker
