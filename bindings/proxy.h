// SupervisorProxy: stands for a mapping node, a mutable leaf, or a part of one.
#pragma once

#include "bindings/context.h"
#include "bindings/leaf.h"
#include "bindings/node.h"

namespace theus::bindings {

struct ProxyObject {
  PyObject_HEAD ContextObject* context;  // borrowed: the parents lead to it
  PyObject* parent;                      // strong: context or proxy
  PyObject* key;                         // strong: last segment of the path; null for the root
  worker::Mapping* mapping;              // of a node in a transaction
  std::uint64_t node;                    // of a node in a snapshot
  LeafObject* leaf;                      // strong; null for a node
  PyObject* target;                      // strong: the part it stands for; null for the whole leaf
  // Of a part of content that is shared with readers: the leaf's list of them (leaf.h).
  ProxyObject* next_part;
  ProxyObject* previous_part;
  bool listed;
};

extern PyTypeObject* proxy_type;
// For leaves that can be called: proxy_type with tp_call.
extern PyTypeObject* callable_proxy_type;
void make_proxy_type();

inline bool is_proxy(PyObject* object) {
  return Py_TYPE(object) == proxy_type || Py_TYPE(object) == callable_proxy_type;
}
inline ProxyObject* as_proxy(PyObject* object) { return reinterpret_cast<ProxyObject*>(object); }

// New references. `parent` is the context or a proxy of it.
Ref make_node_proxy(const Node& parent, PyObject* key, worker::Mapping* mapping,
                    std::uint64_t node);
Ref make_root_proxy(ContextObject* context);
Ref make_leaf_proxy(LeafObject* leaf, PyObject* parent, PyObject* key, PyObject* target);

// Plain objects for a proxy, context or State, and for exact containers that hold any of these;
// everything else is given back as it is.
Ref plain(PyObject* object);
// What run() returns for what its function returned.
Ref plain_result(PyObject* object);

// Operations on leaf proxies are functions of theus/_leaf.py.
enum class LeafOperation {
  kGetAttribute,
  kSetAttribute,
  kDeleteAttribute,
  kGetItem,
  kSetItem,
  kDeleteItem,
  kLength,
  kContains,
  kIterate,
  kReversed,
  kTruth,
  kCompare,
  kBinary,
  kInplace,
  kUnary,
  kConvert,
  kCall,
  kString,
  kFormat,
  kDirectory,
  kPlain,
  kArray,
  kCount,
};
PyObject* leaf_operation(LeafOperation which);

// Slots of the type, in proxy_mapping.cpp (methods of nodes) and proxy_leaf.cpp (numbers).
extern PyMethodDef node_methods[];
PyObject* node_get_attribute(PyObject* self, PyObject* name);
int node_set_attribute(PyObject* self, PyObject* name, PyObject* value);
PyObject* node_subscript(PyObject* self, PyObject* key);
int node_assign(PyObject* self, PyObject* key, PyObject* value);
int node_contains(PyObject* self, PyObject* key);
Py_ssize_t node_length(PyObject* self);
PyObject* node_compare(PyObject* self, PyObject* other, int operation);
// A private copy of a value on its way into the leaf, in which the leaf's own parts stay
// themselves.
Ref copy_into(LeafObject* leaf, PyObject* value);
// For the pickle of that copy.
Ref adopted_part(Py_ssize_t number);

PyObject* node_or(PyObject* left, PyObject* right);
PyObject* node_inplace_or(PyObject* self, PyObject* other);

}  // namespace theus::bindings
