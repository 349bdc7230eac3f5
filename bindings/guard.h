// ContextGuard: what transaction() and snapshot() return, for the `with` statement.
#pragma once

#include "bindings/engine.h"
#include "bindings/losses.h"
#include "bindings/ref.h"
#include "worker/transaction.h"

namespace theus::bindings {

void make_guard_type(PyObject* module);

// `label` may be null. Nothing is opened before the `with`.
Ref make_transaction_guard(EngineObject* engine, worker::Isolation isolation, PyObject* label);
// Of engine.attempts(): ctx.retry() is allowed.
// For attempts(). `previous`: the guard of the attempt before, or None.
Ref make_attempt_guard(EngineObject* engine, const Losses& losses, bool gives_way,
                       PyObject* previous);
Ref make_snapshot_guard(EngineObject* engine);

}  // namespace theus::bindings
