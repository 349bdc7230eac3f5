#include "bindings/cache.h"

#include <vector>

namespace theus::bindings {
namespace {

constexpr std::size_t kPlaces = 1u << 14;
constexpr std::uint64_t kLeafBytesMax = 4ull << 20;    // encoded
constexpr std::uint64_t kCacheBytesMax = 64ull << 20;  // encoded, all together

struct Place {
  std::uint64_t session_id = 0;
  std::uint64_t record = 0;   // or node
  std::uint64_t version = 0;  // of a node; 0: it is a record
  std::uint64_t bytes = 0;
  PyObject* object = nullptr;
  Shape shape = Shape::kUnknown;
};

std::vector<Place>& places() {
  // Never destroyed: at interpreter exit its objects may no longer be freed.
  static auto* all = new std::vector<Place>(kPlaces);
  return *all;
}

std::uint64_t bytes_held = 0;

Place& place_of(std::uint64_t session_id, std::uint64_t record) {
  std::uint64_t mixed = (record ^ (session_id << 48)) * 0x9E3779B97F4A7C15ull;
  return places()[mixed >> 50];
}
static_assert(kPlaces == std::size_t{1} << (64 - 50));

void empty(Place& place) {
  PyObject* object = place.object;
  bytes_held -= place.bytes;
  place = Place{};
  Py_XDECREF(object);  // last: it may run code that comes back here
}

}  // namespace

CachedLeaf find_decoded(std::uint64_t session_id, std::uint64_t record) {
  const Place& place = place_of(session_id, record);
  if (place.record != record || place.session_id != session_id || place.version != 0) return {};
  return {place.object, place.shape};
}

namespace {

void keep(std::uint64_t session_id, std::uint64_t record, std::uint64_t version, PyObject* object,
          Shape shape, std::uint64_t bytes) {
  std::uint64_t charge = object == nullptr ? 0 : bytes;
  if (charge > kLeafBytesMax) return;
  empty(place_of(session_id, record));
  if (bytes_held + charge > kCacheBytesMax) {
    for (Place& place : places()) empty(place);
  }
  Place& place = place_of(session_id, record);
  if (place.object != nullptr) return;
  Py_XINCREF(object);
  place = Place{session_id, record, version, charge, object, shape};
  bytes_held += charge;
}

}  // namespace

void keep_decoded(std::uint64_t session_id, std::uint64_t record, PyObject* object, Shape shape,
                  std::uint64_t bytes) {
  keep(session_id, record, 0, object, shape, bytes);
}

PyObject* find_content(std::uint64_t session_id, std::uint64_t node, std::uint64_t version) {
  const Place& place = place_of(session_id, node);
  bool same = place.record == node && place.session_id == session_id && place.version == version;
  return same ? place.object : nullptr;
}

void keep_content(std::uint64_t session_id, std::uint64_t node, std::uint64_t version,
                  PyObject* content) {
  constexpr std::uint64_t kBytesPerItem = 64;
  auto items = static_cast<std::uint64_t>(PyDict_GET_SIZE(content));
  if (version != 0) {
    keep(session_id, node, version, content, Shape::kFlat, items * kBytesPerItem);
  }
}

}  // namespace theus::bindings
