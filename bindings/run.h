// engine.run(): a function run in a transaction, again after conflicts and after ctx.retry().
#pragma once

#include "bindings/ref.h"

namespace theus::bindings {

// Methods of EngineCore; calling convention of METH_FASTCALL | METH_KEYWORDS.
// run(fn, *args, retries=16, timeout=None, **kw)
PyObject* run_method(PyObject* engine, PyObject* const* arguments, Py_ssize_t count,
                     PyObject* names);
// _run_once(cancelled, fn, *args, retries=16, **kw), for run_async: the same up to the first
// ctx.retry(). Returns (None, result) or (Target, executions). `cancelled` is a list: once there is
// something in it, nothing is run or committed any more.
PyObject* run_once_method(PyObject* engine, PyObject* const* arguments, Py_ssize_t count,
                          PyObject* names);

}  // namespace theus::bindings
