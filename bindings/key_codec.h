// Mapping keys as bytes (docs/bindings.md, Keys).
#pragma once

#include <string>

#include "bindings/ref.h"
#include "shm/key.h"

namespace theus::bindings {

inline constexpr std::size_t kKeyBytesMax = 960;
static_assert(kKeyBytesMax <= 976, "a key must fit the largest key record");

// The encoded form of one key. Borrows the bytes of `key` where it can: `key` must outlive it.
class EncodedKey {
 public:
  // Throws PythonError with EncodeError set: a type that is no key, NaN, too long. The error's
  // path is that of `owner` (a context or proxy) and the key.
  EncodedKey(PyObject* key, PyObject* owner);
  EncodedKey(const EncodedKey&) = delete;
  EncodedKey& operator=(const EncodedKey&) = delete;

  shm::KeyView view() const { return view_; }

 private:
  std::string storage_;
  shm::KeyView view_;
};

// repr(key), or words in place of it where that fails: for messages.
Ref shown_key(PyObject* key);
// The key that `view` encodes, spelled as it was. New reference; strings are shared from a cache.
// Throws PythonError (DecodeError) on bytes that no EncodedKey made.
Ref decode_key(shm::KeyView view);

}  // namespace theus::bindings
