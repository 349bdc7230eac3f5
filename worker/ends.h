// What a session remembers of the dead entries at the ends of mappings, so that it need not pass
// them again in each transaction. Included by worker/*.cpp only.
//
// Deleted entries keep their places for as long as some pin sees them. Who takes one entry after
// another, each in a transaction of its own, while somebody keeps an old snapshot, would pass all
// that he has taken before.
//
// Why it stays true. Places are given in the order of commits, and a key that is inserted again
// gets a new one. So where nothing was visible at version v, before or between places that were
// given by then, nothing is visible at a later version. What is remembered is used only from v on,
// and only if its chunk, looked at under the pin of whoever uses it, is still in the order: then
// all that he sees is there or further on, and kept by that pin. Chunks are named by generation, so
// it does no harm to remember what is gone.
//
// Thread safety: as the session.
#pragma once

#include <array>
#include <cstdint>

#include "shm/link.h"

namespace theus::worker {

class Ends {
 public:
  struct Place {
    shm::Link chunk;  // null: not known
    std::uint32_t place = 0;
    bool operator==(const Place&) const = default;
  };
  struct Known {
    std::uint64_t node = 0;
    std::uint64_t version = 0;
    Place first;  // nothing is visible before it
    Place dead;   // nothing is visible from here back to, and not including,
    Place last;   // the place before this one
  };
  // Places looked at from which on it is worth remembering.
  static constexpr std::uint64_t kWorth = 16;

  // Nullptr: nothing that helps at this version.
  const Known* find(std::uint64_t node, std::uint64_t version) const {
    const Known& known = slot(node);
    return known.node == node && known.version <= version ? &known : nullptr;
  }
  void learn_first(std::uint64_t node, std::uint64_t version, Place first) {
    if (Known* known = renew(node, version)) known->first = first;
  }
  void learn_last(std::uint64_t node, std::uint64_t version, Place dead, Place last) {
    if (Known* known = renew(node, version)) {
      known->dead = dead;
      known->last = last;
    }
  }

 private:
  // What is known of one end stays true at the newer version.
  Known* renew(std::uint64_t node, std::uint64_t version) {
    Known& known = slot(node);
    if (known.node != node) known = Known{node, version, {}, {}, {}};
    if (known.version > version) return nullptr;
    known.version = version;
    return &known;
  }
  static constexpr std::size_t kNodes = 64;
  const Known& slot(std::uint64_t node) const {
    return known_[shm::Link(node).unit() / 4 % kNodes];
  }
  Known& slot(std::uint64_t node) { return known_[shm::Link(node).unit() / 4 % kNodes]; }

  std::array<Known, kNodes> known_{};
};

}  // namespace theus::worker
