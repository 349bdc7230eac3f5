// BlockView: the bytes of one leaf as a read-only buffer, pinned for as long as Python holds it.
#pragma once

#include "bindings/attached.h"
#include "bindings/ref.h"

namespace theus::bindings {

// Makes the type; called once by the module. Throws PythonError.
void make_block_view_type();

// Pins the block of `value` (value.block is not 0, and a snapshot pin or a transaction covers it).
// Releasing the pin runs no Python, and may happen after close() and at interpreter exit.
Ref make_block_view(const AttachedPtr& attached, const worker::Value& value);

}  // namespace theus::bindings
