// Transaction: what `ctx.transaction` gives.
#pragma once

#include "bindings/ref.h"

namespace theus::bindings {

void make_transaction_type(PyObject* module);

// The Transaction of a context (a ProcessContext); the same object while somebody holds it.
Ref transaction_object_of(PyObject* context);

}  // namespace theus::bindings
