// Decoded leaves of this process, by the record they were decoded from, and small nodes as dicts.
//
// Holds objects without views of shared memory only: a view would be a pin that nobody sees. What
// it holds must never be given out unless it is frozen.
#pragma once

#include <cstdint>

#include "bindings/classify.h"
#include "bindings/ref.h"

namespace theus::bindings {

struct CachedLeaf {
  PyObject* object = nullptr;  // borrowed; null: only the shape is known
  Shape shape = Shape::kUnknown;
};

// `record` is a raw record link, not 0. Nothing found: shape kUnknown.
CachedLeaf find_decoded(std::uint64_t session_id, std::uint64_t record);
// A node's whole content as a dict of frozen values; borrowed, to be copied. `version`: a number,
// not 0, that is another when the content is. Null: not known.
PyObject* find_content(std::uint64_t session_id, std::uint64_t node, std::uint64_t version);
void keep_content(std::uint64_t session_id, std::uint64_t node, std::uint64_t version,
                  PyObject* content);
// Keeps `object` (may be null) until another leaf needs its place. `bytes` is its encoded
// size; very large leaves are not kept.
void keep_decoded(std::uint64_t session_id, std::uint64_t record, PyObject* object, Shape shape,
                  std::uint64_t bytes);

}  // namespace theus::bindings
