// What repr() says of contexts, transactions and guards: short, never raising, and without a look
// at the state.
#pragma once

#include "bindings/context.h"

namespace theus::bindings {

PyObject* context_represent(PyObject* self);
// "open", "committed" and so on.
const char* status_text(const ContextObject* context);
// "isolation='serializable', label='x'". `label` is a str or null.
Ref options_text(bool serializable, PyObject* label);

}  // namespace theus::bindings
