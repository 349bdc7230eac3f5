// Paths: from what the program writes to keys, and from keys to what messages say.
#pragma once

#include "bindings/ref.h"

namespace theus::bindings {

// A tuple of keys. A str is split at every dot, untrimmed (ValueError on an empty segment); a tuple
// is taken as it is; anything else is a TypeError. Throws PythonError.
Ref parse_path(PyObject* path);

// `path` (a tuple of keys) as a str if that reads back as the same path, otherwise the tuple.
Ref spell_path(PyObject* path);

// The same, always a str, for messages: `domain.counter` or `('domain', 7)`; the root is `()`.
Ref path_text(PyObject* path);

// `path` and one more key.
Ref path_below(PyObject* path, PyObject* key);

}  // namespace theus::bindings
