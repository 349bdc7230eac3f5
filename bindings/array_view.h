// BlockView: the bytes of one leaf as a buffer, pinned for as long as Python holds it. Either the
// shared bytes, read-only, or a private view of them (worker/private_view.h), which can be written.
#pragma once

#include "bindings/attached.h"
#include "bindings/ref.h"

namespace theus::bindings {

// Makes the type; called once by the module. Throws PythonError.
void make_block_view_type();

// Pins the block of `value` (value.block is not 0, and a snapshot pin or a transaction covers it).
// Releasing the pin runs no Python, and may happen after close() and at interpreter exit.
Ref make_block_view(const AttachedPtr& attached, const worker::Value& value);

// The same bytes as a private view. Null where that is not worth it (a few pages are copied faster
// than mapped) or cannot be had: copy them then.
Ref make_private_view(const AttachedPtr& attached, const worker::Value& value);
// Of a buffer that a BlockView exported: the same bytes of a private view. Null as above, and when
// it is no such buffer.
Ref private_view_of(PyObject* memoryview);

// Where the committed bytes lie that a buffer of a private view still shows unchanged. Null: it has
// been written to, or is no such buffer.
const void* unchanged_original(const void* bytes, std::size_t size);

}  // namespace theus::bindings
