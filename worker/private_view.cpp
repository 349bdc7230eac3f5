#include "worker/private_view.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "shm/owned_fd.h"
#include "worker/internals.h"

namespace theus::worker {
namespace {

// Below this, comparing costs less than asking the kernel.
constexpr std::size_t kAskKernelAbove = 256 << 10;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// An entry of /proc/self/pagemap: is the page a copy of its own, in memory or swapped out? What is
// the file's is in no page table at all, or marked as the file's.
bool is_copy(std::uint64_t entry) {
  constexpr std::uint64_t kFilePage = 1ull << 61, kSwapped = 1ull << 62, kPresent = 1ull << 63;
  return (entry & (kSwapped | kPresent)) != 0 && (entry & kFilePage) == 0;
}

}  // namespace

PrivateView::PrivateView(Session& session, const Value& value)
    : session_(session), original_(value.data), size_(value.size) {
  const shm::Space& space = session.space();
  const auto* start = reinterpret_cast<const std::byte*>(value.data);
  const auto offset = static_cast<std::uint64_t>(start - space.readable_base());
  if (value.block == 0 || space.at(offset, size_) != start) {
    throw Error("these bytes are no block of the shared state");
  }
  pin_ = session.pin_block(value.block);
  Session::Internals& in = session.internals();
  // Mapped and listed under the mutex, which forks take: a child sees both or neither.
  const std::lock_guard<std::mutex> guard(in.block_pin_mutex);
  const std::uint64_t before = offset % page_bytes();
  pages_ = space.map_private(offset - before, before + size_);
  if (pages_ == nullptr) {
    in.release_block_pin(pin_);
    throw Error("the system has no mapping left for a view of shared memory");
  }
  pages_bytes_ = before + size_;
  data_ = reinterpret_cast<char*>(pages_ + before);
  next_ = in.private_views;
  if (next_ != nullptr) next_->previous_ = this;
  in.private_views = this;
}

PrivateView::~PrivateView() {
  Session::Internals& in = session_.internals();
  // A child that keeps no views does not look at the list either, nor can it have the mutex for
  // certain (a fork without handlers).
  if (!in.fork_guard.keeps_views()) {
    munmap(pages_, pages_bytes_);
    return;
  }
  {
    const std::lock_guard<std::mutex> guard(in.block_pin_mutex);
    (previous_ != nullptr ? previous_->next_ : in.private_views) = next_;
    if (next_ != nullptr) next_->previous_ = previous_;
  }
  munmap(pages_, pages_bytes_);
  session_.unpin_block(pin_);  // last: until here its pages may be the block's
}

bool PrivateView::unchanged(std::size_t offset, std::size_t size) const {
  if (offset > size_ || size > size_ - offset) return false;
  const char* now = data_ + offset;
  const char* then = original_ + offset;
  if (size < kAskKernelAbove) return size == 0 || std::memcmp(now, then, size) == 0;
  const std::size_t page = page_bytes();
  const shm::OwnedFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  std::array<std::uint64_t, 512> entries;
  const char* end = now + size;
  for (const char* at = now; at < end;) {
    const std::uint64_t first = reinterpret_cast<std::uintptr_t>(at) / page;
    const std::uint64_t pages = (reinterpret_cast<std::uintptr_t>(end) - 1) / page - first + 1;
    const std::size_t wanted = std::min<std::size_t>(pages, entries.size());
    const ssize_t got =
        pagemap ? pread(pagemap.get(), entries.data(), wanted * 8, static_cast<off_t>(first * 8))
                : -1;
    const std::size_t count = got > 0 ? static_cast<std::size_t>(got) / 8 : 0;
    // No answer: compare all that is left.
    if (count == 0)
      return std::memcmp(at, then + (at - now), static_cast<std::size_t>(end - at)) == 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto* next = reinterpret_cast<const char*>((first + i + 1) * page);
      const char* stop = std::min(next, end);
      if (is_copy(entries[i]) &&
          std::memcmp(at, then + (at - now), static_cast<std::size_t>(stop - at)) != 0) {
        return false;
      }
      at = stop;
    }
  }
  return true;
}

void PrivateView::forbid() const noexcept {
  static_cast<void>(mprotect(pages_, pages_bytes_, PROT_NONE));
}

}  // namespace theus::worker
