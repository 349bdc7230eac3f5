// What a transaction can make anew from the newest version when others have written it meanwhile:
// ctx.add() and its relatives, and leaves of classes with a resolver (theus/_operations.py).
#pragma once

#include "bindings/context.h"
#include "bindings/node.h"

namespace theus::bindings {

// One of ctx.add(), maximum(), minimum(), append(), insert(), discard().
struct Operation {
  const char* name;
  shm::Fold fold;      // for numbers; kNone: it is none for numbers
  Imported* function;  // (ctx, path, operand) -> what to note of the operand to do it again
};

// Applies it to the place. Where that can be done again at commit, it is no read.
void operate(const Operation& operation, const Node& node, PyObject* key, PyObject* path,
             PyObject* operand);

// The program writes or deletes the entry otherwise: what was noted for it counts no more.
void forget_operations(ContextObject* context, const worker::Entry* entry);

class ContextMerger final : public worker::Merger {
 public:
  explicit ContextMerger(ContextObject* context) : context_(context) {}

  // Runs Python. Throws PythonError with what that raises.
  bool merge(worker::Transaction& transaction, worker::Entry* entry,
             const worker::Value& newest) override;

 private:
  Ref operate_again(const worker::Entry* entry, const worker::Value& newest, PyObject* path);
  Ref resolve(worker::Transaction& transaction, const worker::Entry* entry,
              const worker::Value& newest, PyObject* path);

  ContextObject* context_;
};

}  // namespace theus::bindings
