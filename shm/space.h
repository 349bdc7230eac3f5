// The two segments of one coordinator, as one process has them mapped.
//
// Thread safety: a Space is immutable after construction; what it gives out is shared memory, with
// the rules of layout.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "shm/known_fd.h"
#include "shm/layout.h"

namespace theus::shm {

// Owns descriptors (resource type). -1: none.
struct SegmentFds {
  int data_writable = -1;
  int data_readable = -1;  // opened O_RDONLY: what is mapped from it cannot be made writable
  int desks = -1;

  SegmentFds() = default;
  SegmentFds(SegmentFds&& other) noexcept;
  SegmentFds& operator=(SegmentFds&& other) noexcept;
  SegmentFds(const SegmentFds&) = delete;
  SegmentFds& operator=(const SegmentFds&) = delete;
  ~SegmentFds();
};

enum class Access {
  kWorker,    // data twice: read-only, and writable at a hidden address; desks writable
  kObserver,  // data and desks read-only (theus-top)
  kOneView,   // data writable, once: worker threads in one process (tests under ThreadSanitizer)
};

// Makes both segments (memfd) and formats them: empty state, clock 0, root node.
// capacity_bytes: kMinCapacityBytes to kMaxCapacityBytes, rounded up to whole extents.
// Throws std::system_error when the kernel refuses, std::invalid_argument on a bad capacity.
SegmentFds create_segments(std::uint64_t capacity_bytes);

class Space {
 public:
  // Maps the segments. The descriptors may be closed afterwards (except that the writable one is
  // needed to allocate memory and is duplicated here for that). Throws std::system_error;
  // std::runtime_error naming both stamps when the layout is not ours.
  Space(const SegmentFds& fds, Access access);
  ~Space();
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  // Where readers look. Never written through.
  const Header& header() const { return *reinterpret_cast<const Header*>(readable_); }
  // Where the lock owner and a cell's owner write. Only with kWorker and kOneView.
  Header& writable() const { return *reinterpret_cast<Header*>(writable_); }

  const std::byte* readable_base() const { return readable_; }
  std::byte* writable_base() const { return writable_; }
  std::uint64_t capacity_bytes() const { return capacity_; }

  Desk& desk(std::uint32_t slot) const;  // slot < kMaxSlots; kWorker, kOneView
  const Desk& desk_readable(std::uint32_t slot) const;

  // The readable address of `size` bytes at `offset`, or nullptr when that is outside the segment.
  const std::byte* at(std::uint64_t offset, std::uint64_t size) const {
    return offset <= capacity_ && size <= capacity_ - offset ? readable_ + offset : nullptr;
  }

  // Cells by link, readable: nullptr when the offset is outside. The generation is the caller's to
  // check, after it has read the fields (see link.h).
  template <class Cell>
  const Cell* cell(Link link) const {
    return reinterpret_cast<const Cell*>(at(link.offset(), sizeof(Cell)));
  }
  template <class Cell>
  Cell* writable_cell(std::uint32_t unit) const {
    return reinterpret_cast<Cell*>(writable_ + std::uint64_t{unit} * kUnitBytes);
  }

  // Puts memory behind [offset, offset + size) of the data segment, 4 MiB at a time. False: there
  // is none to be had (full, or the cgroup's limit is near); *why says which.
  bool back(std::uint64_t offset, std::uint64_t size, std::string* why) const;
  // [offset, offset + size), from a page's start, as memory of this process alone: the kernel
  // copies a page when it is first written to, and until then shows the segment's. To be unmapped
  // with munmap(). nullptr when it refuses.
  std::byte* map_private(std::uint64_t offset, std::uint64_t size) const noexcept;
  // Gives the memory behind whole pages of [offset, offset + size) back to the system.
  void punch(std::uint64_t offset, std::uint64_t size) const;

  Access access() const { return access_; }

  // In a forked child that reads on: a page of the data segment, mapped through an open file of its
  // own, which the kernel closes when the process's memory goes (end or exec). For the coordinator,
  // which is told of that (inotify). Async-signal-safe; failing costs no more than being told.
  void mark_process() const noexcept;
  // For a forked child whose inherited views nothing protects: from now on a look at the data is a
  // SIGSEGV instead of silently something else. Async-signal-safe.
  void forbid_reading() const noexcept;

 private:
  struct Mappings;
  std::unique_ptr<Mappings> mappings_;
  std::byte* readable_ = nullptr;
  std::byte* writable_ = nullptr;
  std::byte* desks_ = nullptr;
  std::uint64_t capacity_ = 0;
  KnownFd backing_;           // to allocate memory with
  std::string backing_path_;  // through which it can be opened anew
  Access access_;
};

}  // namespace theus::shm
