#include "shm/space.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <csignal>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "shm/fork.h"
#include "shm/memory_limit.h"
#include "shm/stamp.h"

namespace theus::shm {

namespace ipc = boost::interprocess;

namespace {

constexpr std::uint64_t kBackingStepBytes = 4ull << 20;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// What mapped_region asks of a mappable thing.
struct Descriptor {
  int fd;
  ipc::mapping_handle_t get_mapping_handle() const { return {fd, false}; }
};

void close_quietly(int fd) {
  if (fd >= 0) close(fd);
}

// Reserves address space for the writable alias at an address that cannot be told from any other
// mapping's: guard, alias, guard. Falls back on the kernel's choice where ours are all refused.
std::byte* reserve_hidden(std::uint64_t bytes) {
#if !defined(__SANITIZE_THREAD__)
  for (int attempt = 0; attempt < 16; ++attempt) {
    std::uint64_t random = 0;
    if (getrandom(&random, sizeof(random), 0) != sizeof(random)) break;
    constexpr std::uint64_t kLowest = 0x200000000000ull, kRange = 0x400000000000ull;
    const std::uint64_t address = (kLowest + random % kRange) / kPageBytes * kPageBytes;
    void* hint = reinterpret_cast<void*>(address);
    void* got = mmap(hint, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == hint) return static_cast<std::byte*>(got);
    if (got != MAP_FAILED) munmap(got, bytes);
  }
#endif
  void* got = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) fail("reserving address space");
  return static_cast<std::byte*>(got);
}

// The hole that the writable alias leaves in a forked child: closed there, or a later mmap lands in
// it and stale writes corrupt the child.
class Hole final : public ForkParticipant {
 public:
  // Maps `fd` at `address`, hidden from children from the first moment. Throws std::system_error.
  void open(std::byte* address, std::uint64_t bytes, int fd) {
    ForkLock lock;
    if (mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
      fail("mapping the data segment");
    }
    if (madvise(address, bytes, MADV_DONTFORK) != 0) fail("madvise(MADV_DONTFORK)");
    address_ = address;
    bytes_ = bytes;
    lock.add(*this);
  }
  ~Hole() {
    if (address_ != nullptr) ForkLock().remove(*this);
  }
  void after_fork_in_child() noexcept override {
    // Failing is harmless for us (something is mapped there already) and cannot be reported here.
    static_cast<void>(mmap(address_, bytes_, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                           0));
  }

 private:
  std::byte* address_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace

SegmentFds::SegmentFds(SegmentFds&& other) noexcept
    : data_writable(std::exchange(other.data_writable, -1)),
      data_readable(std::exchange(other.data_readable, -1)),
      desks(std::exchange(other.desks, -1)) {}

SegmentFds& SegmentFds::operator=(SegmentFds&& other) noexcept {
  std::swap(data_writable, other.data_writable);
  std::swap(data_readable, other.data_readable);
  std::swap(desks, other.desks);
  return *this;
}

SegmentFds::~SegmentFds() {
  close_quietly(data_writable);
  close_quietly(data_readable);
  close_quietly(desks);
}

struct Space::Mappings {
  ipc::mapped_region readable;
  ipc::mapped_region desks;
  std::byte* reserve = nullptr;  // guard, writable alias, guard: unmapped in one piece
  std::uint64_t reserve_bytes = 0;
  std::optional<Hole> hole;

  Mappings() = default;
  Mappings(const Mappings&) = delete;
  Mappings& operator=(const Mappings&) = delete;
  ~Mappings() {
    hole.reset();
    if (reserve != nullptr) munmap(reserve, reserve_bytes);
  }
};

Space::Space(const SegmentFds& fds, Access access)
    : mappings_(std::make_unique<Mappings>()), access_(access) {
  struct stat status {};
  const int data = access == Access::kOneView ? fds.data_writable : fds.data_readable;
  if (fstat(data, &status) != 0) fail("looking at the data segment");
  capacity_ = static_cast<std::uint64_t>(status.st_size);
  if (capacity_ < sizeof(Header)) {
    throw std::runtime_error("the data segment is shorter than its header: another layout");
  }
  const bool observer = access == Access::kObserver;
  try {
    mappings_->readable = ipc::mapped_region(
        Descriptor{data}, access == Access::kOneView ? ipc::read_write : ipc::read_only, 0,
        capacity_);
    mappings_->desks =
        ipc::mapped_region(Descriptor{fds.desks}, observer ? ipc::read_only : ipc::read_write, 0,
                           kMaxSlots * kDeskBytes);
    readable_ = static_cast<std::byte*>(mappings_->readable.get_address());
    desks_ = static_cast<std::byte*>(mappings_->desks.get_address());
    if (access == Access::kOneView) {
      writable_ = readable_;
    } else if (access == Access::kWorker) {
      mappings_->reserve_bytes = capacity_ + 2 * kExtentBytes;
      mappings_->reserve = reserve_hidden(mappings_->reserve_bytes);
      std::byte* inside = mappings_->reserve + kExtentBytes;
      mappings_->hole.emplace().open(inside, capacity_, fds.data_writable);
      writable_ = inside;
    }
  } catch (const ipc::interprocess_exception& error) {
    throw std::runtime_error(std::string("mapping the shared state: ") + error.what());
  }
  const Header& there = header();
  const std::uint64_t stamp = there.stamp.load(std::memory_order_acquire);
  if (there.magic.load(std::memory_order_acquire) != kMagic || stamp != layout_stamp()) {
    std::ostringstream text;
    text << "the shared state has layout 0x" << std::hex << stamp << ", this build has "
         << describe_layout() << "; use the same build of theus on both sides";
    throw std::runtime_error(text.str());
  }
  if (!observer) {
    backing_ = KnownFd(OwnedFd(fcntl(fds.data_writable, F_DUPFD_CLOEXEC, 3)));
    if (backing_.get() < 0) fail("keeping the segment's descriptor");
    backing_path_ = "/proc/self/fd/" + std::to_string(backing_.get());
  }
}

Space::~Space() = default;

void Space::mark_process() const noexcept {
  if (backing_.get() < 0) return;
  const OwnedFd own(open(backing_path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!own) return;
  void* page = mmap(nullptr, kPageBytes, PROT_NONE, MAP_SHARED, own.get(), 0);
  // Children of this process are not this process.
  if (page != MAP_FAILED) static_cast<void>(madvise(page, kPageBytes, MADV_DONTFORK));
}

void Space::forbid_reading() const noexcept {
  static_cast<void>(mprotect(readable_, capacity_, PROT_NONE));
}

Desk& Space::desk(std::uint32_t slot) const {
  return *reinterpret_cast<Desk*>(desks_ + std::uint64_t{slot} * kDeskBytes);
}

const Desk& Space::desk_readable(std::uint32_t slot) const { return desk(slot); }

bool Space::back(std::uint64_t offset, std::uint64_t size, std::string* why) const {
  std::string limited_by;
  const std::uint64_t headroom = memory_headroom(&limited_by);
  if (headroom < size + kMemoryReserveBytes) {
    *why = limited_by + " leaves " + std::to_string(headroom >> 20) + " MiB, and " +
           std::to_string(size >> 20) + " MiB more are needed with a reserve of " +
           std::to_string(kMemoryReserveBytes >> 20) + " MiB";
    return false;
  }
  // Past RLIMIT_FSIZE the kernel sends SIGXFSZ before it returns EFBIG. Blocking it for this thread
  // and taking a pending one away turns it into the error alone, whatever the program installed.
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const int fd = backing_.get();
  int error = 0;
  for (std::uint64_t done = 0; done < size && error == 0;) {
    const std::uint64_t step = std::min(size - done, kBackingStepBytes);
    if (fallocate(fd, 0, static_cast<off_t>(offset + done), static_cast<off_t>(step)) == 0) {
      done += step;
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error == EFBIG && sigismember(&before, SIGXFSZ) == 0) {
    const timespec at_once{0, 0};
    sigtimedwait(&blocked, nullptr, &at_once);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error == 0) return true;
  *why = "the system refused memory: " + std::generic_category().message(error);
  return false;
}

std::byte* Space::map_private(std::uint64_t offset, std::uint64_t size) const noexcept {
  void* got = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                   backing_.get(), static_cast<off_t>(offset));
  return got == MAP_FAILED ? nullptr : static_cast<std::byte*>(got);
}

void Space::punch(std::uint64_t offset, std::uint64_t size) const {
  const std::uint64_t first = (offset + kPageBytes - 1) / kPageBytes * kPageBytes;
  const std::uint64_t end = (offset + size) / kPageBytes * kPageBytes;
  if (end <= first) return;
  // A hole that cannot be punched only keeps memory that is free anyway: nothing to report.
  static_cast<void>(fallocate(backing_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(first), static_cast<off_t>(end - first)));
}

}  // namespace theus::shm
