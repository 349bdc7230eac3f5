// Iterators over a node, and what keys(), values() and items() of it return.
#pragma once

#include "bindings/ref.h"
#include "worker/transaction.h"

namespace theus::bindings {

enum class IteratorMode : unsigned char { kKeys, kValues, kItems };

void make_view_types(PyObject* module);

// `owner` is a context or a node proxy. Throw PythonError.
Ref make_node_iterator(PyObject* owner, IteratorMode mode,
                       worker::Order order = worker::Order::kForward);
Ref make_view(PyObject* owner, IteratorMode mode);
bool is_view(PyObject* object);
// dir() of a node: its methods and the keys that can be reached by attribute.
Ref node_directory(PyObject* owner);

}  // namespace theus::bindings
