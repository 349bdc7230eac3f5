// Values on their way in: encoded completely first, written afterwards.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bindings/codec.h"
#include "bindings/context.h"
#include "bindings/key_codec.h"
#include "bindings/ref.h"

namespace theus::bindings {

// Dicts in dicts: keeps every recursion over the state far from the end of the stack.
inline constexpr int kNestingMax = 200;

// For a proxy met while a value is being pickled: raises unless it may be copied into that value (a
// proxy of another open transaction may not).
void check_may_be_encoded(ContextObject* from, PyObject* proxy);
// The same for a value that is about to be copied to where `into` (a context or proxy) stands.
void check_may_be_copied(PyObject* into, PyObject* value);

// A value as it was when this was made. Making it runs code of the value's classes; putting it
// runs none.
class EncodedValue {
 public:
  // `owner` and `key` say where it is to go, for errors and for the transaction it belongs to.
  // Throws PythonError (EncodeError with the path; TheusError for a proxy that cannot be copied).
  EncodedValue(PyObject* value, PyObject* owner, PyObject* key);

  // Replaces what `entry` holds. Throws worker::CapacityError; `*partly` tells whether something
  // had been written by then.
  void put(worker::Transaction& transaction, worker::Entry* entry, Attached& attached,
           bool* partly) const;

 private:
  struct Step {
    enum class Kind { kScalar, kLeaf, kOpen, kClose } kind = Kind::kScalar;
    std::unique_ptr<EncodedKey> key;  // null for the value itself
    Ref key_object;                   // keeps what `key` borrows
    Ref scalar;
    std::optional<LeafEncoding> leaf;
  };
  class Builder;
  std::vector<Step> steps_;
};

// True if `value` is of one of the six scalar types and fits; then it has been put.
bool put_scalar(worker::Transaction& transaction, worker::Entry* entry, PyObject* value);

}  // namespace theus::bindings
