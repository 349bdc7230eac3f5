// Iterating over a built-in container inside of a leaf.
#pragma once

#include "bindings/leaf.h"
#include "bindings/proxy.h"

namespace theus::bindings {

// What a leaf proxy stands for: never to be changed or given out. Borrowed; null: nothing decoded.
inline PyObject* leaf_object(const ProxyObject* proxy) {
  return proxy->target != nullptr ? proxy->target : leaf_content(proxy->leaf);
}

void make_leaf_iterator_type();
// `proxy` stands for a plain container (is_plain_container()).
Ref make_leaf_iterator(PyObject* proxy);

}  // namespace theus::bindings
