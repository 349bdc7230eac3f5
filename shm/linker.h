// Making what a worker has filled part of the state: records, and new mappings with all that is
// below them. Lock held.
//
// Cells that a worker has filled are believed in nothing: they must be its own and held, and their
// fields must make sense where readers rely on them. Whatever is linked within a step of a delta
// has a version that nobody sees before the clock.
#pragma once

#include <cstdint>

#include "shm/tables.h"

namespace theus::shm {

class Linker {
 public:
  explicit Linker(Tables& tables) : tables_(tables) {}

  // Whose cells may be linked from now on.
  void work_for(std::uint32_t slot) { slot_ = slot; }

  // --- Within a step of a delta. False: not as it should be; the step must be undone.

  bool owns(Link link, bool (*fits)(std::uint8_t cell_class)) const {
    return tables_.owns(slot_, link, fits);
  }
  bool link_record(Link record, Link key_link, std::uint64_t version);
  bool well_formed_key(Link key) const;
  // The unit of a spare chunk. 0 when an earlier operation of the delta has used it up: then it has
  // places left, or the worker brought too few.
  std::uint32_t usable_spare(Link chunk) const {
    return chunk && owns(chunk, is_chunk) ? chunk.unit() : 0;
  }

  // --- Steps of their own (nursery.cpp)

  // Links a part of what lies below a filled node, about kPrelinkKeys keys, before the delta that
  // binds the node is submitted, so that no lock is held for long however much is new. Until it is
  // bound the node stands in its worker's nursery, from where it goes to the dead queue if the
  // worker gives up or dies. kBad: nothing was done.
  enum class Prelinked : std::uint8_t { kMore, kDone, kBad };
  Prelinked prelink(std::uint32_t slot, Link node) noexcept;
  // Sends what is left in a nursery to the dead queue; one node a call. False: it was empty.
  bool bury_nursery(std::uint32_t slot);

 private:
  bool well_formed(Link record) const;
  bool link_tree(Link node, Link bound_to);
  bool link_pending(std::uint32_t pending, std::uint64_t* keys);
  bool link_chunk(std::uint32_t node_unit, Link chunk_link, std::uint32_t prev,
                  std::uint64_t* count, std::uint32_t* pending);
  bool link_entry(std::uint32_t node_unit, Link key_link, std::uint32_t chunk_unit,
                  std::uint32_t place, std::uint32_t* pending);
  bool finish_entry(Link key_link);
  bool leave_nursery(Link node, Link bound_to);

  Tables& tables_;
  std::uint32_t slot_ = 0;
};

}  // namespace theus::shm
