// A committed value's bytes as memory of this process alone, without copying them.
//
// It is mapped MAP_PRIVATE: reading sees the shared pages, and the kernel copies a page when it is
// first written to. So a shadow of a large array costs what is changed of it, and a library that
// knows no read-only memory can be shown shared memory at all. Nobody else ever sees a write to it.
//
// Who keeps what: the view has a block pin of its own, as the pages that have not been copied are
// the block's. In a forked child it is kept like any other (Inheritance), under the child's copy of
// the pin; where the child has none, reading it is a SIGSEGV, as with all shared memory. A death
// leaves nothing: the kernel unmaps, the pin goes with its slot.
#pragma once

#include <cstddef>
#include <cstdint>

#include "worker/transaction.h"

namespace theus::worker {

// Thread safety: that of Session::pin_block for making and ending one; its bytes are memory as any.
class PrivateView {
 public:
  // Of `value`, which lies in a block (value.block is not 0) that a snapshot pin or an open
  // transaction of `session` covers. The session outlives the view. Throws Error when there is no
  // block pin left or the kernel has no mapping for it: copy the bytes then.
  PrivateView(Session& session, const Value& value);
  ~PrivateView();
  PrivateView(const PrivateView&) = delete;
  PrivateView& operator=(const PrivateView&) = delete;

  char* data() const { return data_; }
  std::size_t size() const { return size_; }
  // The shared bytes that it was made of.
  const char* original() const { return original_; }

  // Whether [offset, offset + size) still is what was committed. Looks at the pages that the kernel
  // has copied only, where it tells which these are (/proc/self/pagemap: 8 bytes a page are read).
  bool unchanged(std::size_t offset, std::size_t size) const;

 private:
  friend class Inheritance;
  void forbid() const noexcept;  // async-signal-safe

  Session& session_;
  const char* original_;
  std::size_t size_;
  std::uint32_t pin_ = 0;
  std::byte* pages_ = nullptr;  // whole pages around it
  std::size_t pages_bytes_ = 0;
  char* data_ = nullptr;
  // The session's list of them, for forks; guarded by block_pin_mutex.
  PrivateView* next_ = nullptr;
  PrivateView* previous_ = nullptr;
};

}  // namespace theus::worker
