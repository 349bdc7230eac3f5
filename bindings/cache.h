// Decoded leaves of this process, by the record they were decoded from.
//
// Holds objects without views of shared memory only: a view would be a pin that nobody sees. What
// it holds must never be given out unless it is frozen.
#pragma once

#include <cstdint>

#include "bindings/classify.h"
#include "bindings/ref.h"

namespace theus::bindings {

struct CachedLeaf {
  PyObject* object = nullptr;  // borrowed; null for Shape::kObject
  Shape shape = Shape::kUnknown;
};

// `record` is a raw record link, not 0. Nothing found: shape kUnknown.
CachedLeaf find_decoded(std::uint64_t session_id, std::uint64_t record);
// Keeps `object` (null for kObject) until another leaf needs its place. `bytes` is its encoded
// size; very large leaves are not kept.
void keep_decoded(std::uint64_t session_id, std::uint64_t record, PyObject* object, Shape shape,
                  std::uint64_t bytes);

}  // namespace theus::bindings
