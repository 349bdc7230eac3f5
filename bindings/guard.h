// ContextGuard: what transaction() and snapshot() return, for the `with` statement.
#pragma once

#include "bindings/engine.h"
#include "bindings/ref.h"
#include "worker/transaction.h"

namespace theus::bindings {

void make_guard_type(PyObject* module);

// `label` may be null. Nothing is opened before the `with`.
Ref make_transaction_guard(EngineObject* engine, worker::Isolation isolation, PyObject* label);
// Of engine.attempts(): ctx.retry() is allowed.
Ref make_attempt_guard(EngineObject* engine);
Ref make_snapshot_guard(EngineObject* engine);

}  // namespace theus::bindings
