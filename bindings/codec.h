// Leaves as bytes (docs/bindings.md, Leaves).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bindings/attached.h"
#include "bindings/ref.h"

namespace theus::bindings {

// A value that has been measured and can be copied, once, to where it is going. Holds references
// to the value's buffers; what it writes is the value as it is when write() is called.
class LeafEncoding {
 public:
  // Throws PythonError with whatever error the pickling raised.
  explicit LeafEncoding(PyObject* value);
  ~LeafEncoding();
  LeafEncoding(LeafEncoding&& other) noexcept;
  LeafEncoding& operator=(LeafEncoding&&) = delete;

  std::uint64_t size() const { return size_; }
  // `to` has room for size() bytes. Of the two, the second lets other threads run while it copies
  // large buffers: `to` is to be the calling thread's until then.
  void write(char* to) const;
  void write(char* to, Attached& attached) const;
  // Byte for byte the same encoding.
  bool same(const LeafEncoding& other) const;
  // Bytes that are equal as long as nothing in the value has changed in place. Buffers that cannot
  // change, or have not since they were mapped, are not copied into it.
  Ref fingerprint() const;
  // The encoding as bytes.
  std::string_view pickled() const;
  bool has_buffers() const { return !buffers_.empty(); }

 private:
  void measure_array(PyObject* array);
  void measure_pickle(PyObject* value);

  bool array_ = false;
  Ref head_;  // bytes: the pickle, or the array's dtype
  std::uint32_t array_flags_ = 0;
  std::vector<std::uint64_t> dimensions_;
  std::vector<Py_buffer> buffers_;  // released by the destructor
  std::uint64_t size_ = 0;
};

// True while this thread measures a value: engines refuse to be pickled then.
bool encoding_now();

enum class LeafForm : std::uint8_t { kPickle, kArray };
// Throws PythonError (DecodeError) when it is neither.
LeafForm leaf_form(std::string_view leaf);
// Whether decode_shared() would hold views of the leaf's bytes.
bool has_buffers(std::string_view leaf);

// Decodes with buffers that are views of `keeper` (a BlockView over exactly `leaf`; null when the
// leaf has no buffers). `path` (a tuple) is for DecodeError. Runs code of the classes involved.
Ref decode_shared(std::string_view leaf, PyObject* keeper, PyObject* path);
// Decodes into memory of its own: arrays are copied and writable.
Ref decode_private(std::string_view leaf, PyObject* path);

}  // namespace theus::bindings
