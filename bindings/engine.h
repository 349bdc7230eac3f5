// EngineCore: what an engine is in C++. theus.Engine derives from it.
#pragma once

#include <memory>
#include <vector>

#include "bindings/attached.h"
#include "bindings/ref.h"

namespace theus::bindings {

struct ContextObject;

// One write that a transaction made, for delta_log.
struct LoggedWrite {
  worker::Entry* entry = nullptr;
  worker::Mapping* mapping = nullptr;  // of a clear(), and then entry is null
};

// What a transaction can do again on a newer version of an entry (merging.h).
struct NotedOperations {
  const worker::Entry* entry = nullptr;
  Ref operations;  // list of (name, operand); or null
  Ref written;     // bytes: the encoded leaf, before it was merged with others'; or null
};

// A transaction of the engine's, kept between uses.
struct TransactionHolder {
  explicit TransactionHolder(AttachedPtr to)
      : attached(std::move(to)), transaction(attached->session) {}
  AttachedPtr attached;
  worker::Transaction transaction;
  std::vector<LoggedWrite> log;
  std::vector<NotedOperations> operations;
};

struct EngineObject {
  PyObject_HEAD AttachedPtr attached;                     // null: never attached, or closed
  std::vector<std::unique_ptr<TransactionHolder>> spare;  // of this attachment
  std::weak_ptr<PinnedSnapshot> newest;                   // the last snapshot made for `state`
  ContextObject* first_open;                              // borrowed
};

extern PyTypeObject* engine_type;
void make_engine_type(PyObject* module);

// The engine's session, attached anew after a fork. Throws PythonError.
AttachedPtr& attached_session(EngineObject* engine);

// A transaction object, from the spare ones if there are any; and back.
std::unique_ptr<TransactionHolder> take_transaction(EngineObject* engine);
void give_transaction(EngineObject* engine, std::unique_ptr<TransactionHolder> holder);

}  // namespace theus::bindings
