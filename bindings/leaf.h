// One mutable leaf that a context has met: what was decoded, the private shadow, and whether the
// shadow has to be written back.
#pragma once

#include "bindings/classify.h"
#include "bindings/context.h"
#include "bindings/node.h"

namespace theus::bindings {

struct ProxyObject;

// Invariants: in a transaction `entry->user` is this leaf as long as the leaf is attached. `value`
// stays readable until the context ends, or the leaf has a shadow from the beginning (a value that
// this transaction itself had written).
struct LeafObject {
  PyObject_HEAD ContextObject* context;  // strong
  worker::Entry* entry;                  // null in a snapshot
  worker::Value value;                   // the encoded leaf, as met
  PyObject* parent;                      // owner (context or proxy) of the node it lies in
  PyObject* key;
  PyObject* content;   // decoded, shared: must not be changed; or null
  PyObject* shadow;    // private; or null
  PyObject* baseline;  // bytes: the shadow's fingerprint, in snapshots; or null
  // The proxies of parts of `content` in a transaction, in the order in which they were made, and
  // so parents first. With the shadow they come to stand for the same parts of that, and leave the
  // list.
  ProxyObject* first_part;
  ProxyObject* last_part;
  Shape shape;
  bool array;    // the array form
  bool dirty;    // the shadow was changed
  bool suspect;  // the shadow may have been changed: compare at commit
};

extern PyTypeObject* leaf_type;
void make_leaf_type();

// What to give out for a leaf value: the frozen object, an array view, or a proxy.
Ref give_out_leaf(const Node& node, PyObject* key, const Found& found);
// Plain objects that belong to the caller; arrays are read-only views where that is possible.
Ref leaf_to_plain(const Node& node, PyObject* key, const Found& found);

// The object to read from; never to be changed or given out.
PyObject* leaf_content(LeafObject* leaf);
// Exactly list, tuple, dict, set, frozenset, bytearray or deque.
bool is_plain_container(PyObject* object);
// The private object.
PyObject* leaf_shadow(LeafObject* leaf);
// A proxy of a part enters the leaf's list, if it has to; and leaves it.
void list_part(LeafObject* leaf, ProxyObject* proxy);
void unlist_part(ProxyObject* proxy);
// True while a write to the leaf would reach the state.
bool is_attached(const LeafObject* leaf);
void check_leaf_writable(LeafObject* leaf);
Ref leaf_path(LeafObject* leaf);

// The entry is about to be replaced or deleted: its leaf reads as last seen from now on.
void detach_leaf(worker::Entry* entry);
// At the end of a transaction: writes back every leaf that was changed. Throws PythonError with
// EncodeError or CapacityError.
void finish_leaves(ContextObject* context);

}  // namespace theus::bindings
