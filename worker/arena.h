// Memory of one transaction: given out piece by piece, taken back all at once and kept for the
// next. Holds only trivially destructible things.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>
#include <vector>

namespace theus::worker {

class Arena {
 public:
  template <class T>
  T* make() {
    static_assert(std::is_trivially_destructible_v<T>);
    return new (allocate(sizeof(T), alignof(T))) T();
  }

  const char* copy(std::string_view bytes) {
    char* to = static_cast<char*>(allocate(bytes.size() + 1, 8));
    std::memcpy(to, bytes.data(), bytes.size());
    to[bytes.size()] = 0;
    return to;
  }

  void* allocate(std::size_t bytes, std::size_t alignment) {
    used_ = (used_ + alignment - 1) & ~(alignment - 1);
    if (block_ >= blocks_.size() || used_ + bytes > sizes_[block_]) {
      advance(bytes + alignment);
      used_ = 0;
    }
    void* result = blocks_[block_].get() + used_;
    used_ += bytes;
    return result;
  }

  void reset() {
    // One transaction that was large does not make all later ones keep its memory.
    if (blocks_.size() > kBlocksKept) {
      blocks_.resize(kBlocksKept);
      sizes_.resize(kBlocksKept);
    }
    block_ = 0;
    used_ = 0;
  }

 private:
  static constexpr std::size_t kBlockBytes = 16 * 1024;
  static constexpr std::size_t kBlocksKept = 16;

  void advance(std::size_t at_least) {
    if (block_ < blocks_.size()) ++block_;
    while (block_ < blocks_.size() && sizes_[block_] < at_least) ++block_;
    if (block_ < blocks_.size()) return;
    const std::size_t bytes = at_least > kBlockBytes ? at_least : kBlockBytes;
    blocks_.push_back(std::make_unique<char[]>(bytes));
    sizes_.push_back(bytes);
    block_ = blocks_.size() - 1;
  }

  std::vector<std::unique_ptr<char[]>> blocks_;
  std::vector<std::size_t> sizes_;
  std::size_t block_ = 0;
  std::size_t used_ = 0;
};

}  // namespace theus::worker
