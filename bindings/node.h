// One mapping node, in a transaction or in a snapshot: everything that can be done to it.
//
// All functions throw PythonError, and the engine's exceptions; none needs more than the GIL.
#pragma once

#include <optional>

#include "bindings/context.h"
#include "bindings/key_codec.h"
#include "bindings/ref.h"

namespace theus::bindings {

// Value type; borrows everything. `owner` is the context or the proxy the program holds.
struct Node {
  ContextObject* context = nullptr;
  worker::Mapping* mapping = nullptr;  // in a transaction
  std::uint64_t id = 0;                // in a snapshot
  PyObject* owner = nullptr;

  bool writable() const { return context->holder != nullptr; }
};

// The node of a context or of a mapping proxy, checked to be usable.
Node node_of(PyObject* owner);

// One key of a node, looked up. `entry` is null in a snapshot.
struct Found {
  worker::Entry* entry = nullptr;
  worker::Value value;
  bool absent() const { return value.kind == worker::Value::Kind::kAbsent; }
};
// Looks up and enters the read set.
Found look_up(const Node& node, const EncodedKey& key);
// Where an entry lies: a tuple of keys.
Ref entry_path(const worker::Entry* entry);
// The Python object for a value that is neither leaf nor mapping nor absent.
Ref scalar(const worker::Value& value);
// What Python gets for it: a plain value or a proxy with `key` as its last path segment.
Ref give_out(const Node& node, PyObject* key, const Found& found);

// Null Ref: there is no such key (it is now in the read set as absent).
Ref get_item(const Node& node, PyObject* key);
void set_item(const Node& node, PyObject* key, PyObject* value);
// False: there was none.
bool delete_item(const Node& node, PyObject* key);
bool has_key(const Node& node, PyObject* key);
Py_ssize_t size(const Node& node);
bool is_empty(const Node& node);
void clear(const Node& node);
// Writes every item of `items` (a list of key-value tuples), all or none.
void write_items(const Node& node, PyObject* items);
// Plain objects all the way down.
Ref to_plain(const Node& node, int depth = 0);
Ref value_to_plain(const Node& node, PyObject* key, const Found& found, int depth);

// Raises unless writes are allowed here and the node is still part of the state.
// Whether this transaction has replaced or removed the mapping, or one that it lies in.
bool is_detached(const worker::Mapping* mapping);
void check_writable(const Node& node, PyObject* key = nullptr);

[[noreturn]] void raise_missing(const Node& node, PyObject* key, bool as_attribute);

// Iteration in insertion order, or from the end. Throws RuntimeError when the program resizes the
// node meanwhile.
class NodeIterator {
 public:
  explicit NodeIterator(const Node& node, worker::Order order = worker::Order::kForward);
  // False: the end. In a transaction the key enters the read set, the value does not.
  bool next(const Node& node);
  Ref key() const;
  // Enters the value into the read set.
  Found found(const Node& node);

 private:
  worker::Transaction::Cursor cursor_;
  worker::Snapshot::Cursor snapshot_cursor_;
  worker::Entry* entry_ = nullptr;
  shm::KeyView key_;
  worker::Value value_;
};

// Up to `limit` keys, without a trace in the read set: for messages and dir().
Ref peek_keys(const Node& node, Py_ssize_t limit);

}  // namespace theus::bindings
