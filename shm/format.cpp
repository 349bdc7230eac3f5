// Making the segments and writing their first state.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

#include "shm/extents.h"
#include "shm/index.h"
#include "shm/space.h"
#include "shm/stamp.h"

namespace theus::shm {
namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

int make_memfd(const char* name, std::uint64_t bytes) {
  const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) fail("memfd_create");
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    close(fd);
    fail("ftruncate of a shared memory segment");
  }
  return fd;
}

// A second description of the same memory that only allows reading: a mapping made from it cannot
// be given write permission later, unlike a read-only mapping of a writable description.
int reopen_readable(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int readable = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (readable < 0) fail("opening a segment read-only");
  return readable;
}

void format_lock(Header& header) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&header.lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

// Extent 0 holds the root node's cell class, extent 1 the first directory segment; then comes one
// free run, and the reserve at the end, both without memory behind them.
void format_extents(const Space& space, Header& header, std::uint64_t extents) {
  const std::uint64_t base = header.extents_offset.load(std::memory_order_relaxed);
  std::string why;
  if (!space.back(base, 2 * kExtentBytes, &why)) {
    throw std::runtime_error("no memory for an empty state: " + why);
  }
  auto set_head = [&header](std::uint64_t at, ExtentHead head) {
    header.extents[at].free_list.store(kNoCell, std::memory_order_relaxed);
    header.extents[at].head.store(head.pack(), std::memory_order_relaxed);
  };
  set_head(0, {ExtentKind::kCells, kNode, kNoSlot, 1});
  set_head(1, {ExtentKind::kDirectory, 0, kNoSlot, 1});
  const std::uint32_t reserve = reserve_extents(extents);
  set_head(2,
           {ExtentKind::kFreeRaw, 0, kNoSlot, static_cast<std::uint32_t>(extents - 2 - reserve)});
  set_head(extents - reserve, {ExtentKind::kFreeRaw, 0, kNoSlot, reserve});
  header.reserve_at.store(extents - reserve, std::memory_order_relaxed);

  // The root node is cell 0 of extent 0; the extent's other cells are free, and the extent is the
  // first orphan of its class.
  const auto unit = static_cast<std::uint32_t>(base / kUnitBytes);
  auto* root = space.writable_cell<NodeRecord>(unit);
  root->cell.generation.store(1, std::memory_order_relaxed);
  root->cell.state.store(kCellLinked, std::memory_order_relaxed);
  header.root.store(Link(1, unit).raw, std::memory_order_relaxed);
  const std::uint32_t cells = cells_per_extent(kNode);
  for (std::uint32_t i = 1; i < cells; ++i) {
    auto* cell = space.writable_cell<CellHeader>(unit + i * kCellBytes[kNode] / kUnitBytes);
    cell->state.store(i + 1 < cells ? i + 1 : kNoCell, std::memory_order_relaxed);
  }
  header.extents[0].free_list.store(1, std::memory_order_relaxed);
  header.extents[0].free_count.store(cells - 1, std::memory_order_relaxed);
  header.extents[0].listed.store(1, std::memory_order_relaxed);
  header.orphans[kNode].store(1, std::memory_order_relaxed);

  header.directory[0].store(2, std::memory_order_relaxed);  // extent 1
  header.segments_ready.store(1, std::memory_order_relaxed);
  header.bucket_bits.store(kFirstBucketBits, std::memory_order_relaxed);
  auto* buckets = reinterpret_cast<Word*>(space.writable_base() + base + kExtentBytes);
  buckets[0].store(kListEnd.raw, std::memory_order_relaxed);

  header.warm_keep.store(kWarmKeepBytes / kExtentBytes, std::memory_order_relaxed);
  header.used_extents.store(2, std::memory_order_relaxed);
  header.backed_extents.store(2, std::memory_order_relaxed);
}

}  // namespace

SegmentFds create_segments(std::uint64_t capacity_bytes) {
  if (capacity_bytes < kMinCapacityBytes || capacity_bytes > kMaxCapacityBytes) {
    throw std::invalid_argument(
        "capacity must be between 16 MiB and 64 GiB, not " + std::to_string(capacity_bytes) +
        " bytes");
  }
  // The header's extent table grows with the capacity; both together are at most `capacity_bytes`.
  std::uint64_t extents = capacity_bytes / kExtentBytes;
  auto header_bytes = [](std::uint64_t count) {
    const std::uint64_t bytes = sizeof(Header) + count * sizeof(ExtentRecord);
    return (bytes + kExtentBytes - 1) / kExtentBytes * kExtentBytes;
  };
  extents -= header_bytes(extents) / kExtentBytes;
  const std::uint64_t extents_offset = header_bytes(extents);
  const std::uint64_t total = extents_offset + extents * kExtentBytes;

  SegmentFds fds;
  fds.data_writable = make_memfd("theus-data", total);
  fds.data_readable = reopen_readable(fds.data_writable);
  fds.desks = make_memfd("theus-desks", kMaxSlots * kDeskBytes);
  constexpr std::uint64_t kStepBytes = 4ull << 20;
  for (std::uint64_t done = 0; done < extents_offset;) {
    const std::uint64_t step = std::min(extents_offset - done, kStepBytes);
    if (fallocate(fds.data_writable, 0, static_cast<off_t>(done), static_cast<off_t>(step)) == 0) {
      done += step;
    } else if (errno != EINTR) {
      fail("no memory for the header of the shared state");
    }
  }

  // The stamp comes last: until then nobody else has the descriptors, so order is for the reader.
  void* mapped = mmap(nullptr, sizeof(Header), PROT_READ | PROT_WRITE, MAP_SHARED,
                      fds.data_writable, 0);
  if (mapped == MAP_FAILED) fail("mapping a new segment");
  auto* header = static_cast<Header*>(mapped);
  header->magic.store(kMagic, std::memory_order_relaxed);
  header->capacity_bytes.store(total, std::memory_order_relaxed);
  header->extents_offset.store(extents_offset, std::memory_order_relaxed);
  header->extent_count.store(extents, std::memory_order_relaxed);
  std::uint64_t seed = 0;
  if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) fail("getrandom");
  header->hash_seed.store(seed, std::memory_order_relaxed);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  header->created_at_ns.store(static_cast<std::uint64_t>(now.tv_sec) * 1000000000ull +
                                  static_cast<std::uint64_t>(now.tv_nsec),
                              std::memory_order_relaxed);
  header->journal.version.store(kNoVersion, std::memory_order_relaxed);
  format_lock(*header);
  header->stamp.store(layout_stamp(), std::memory_order_release);
  munmap(mapped, sizeof(Header));

  Space space(fds, Access::kOneView);
  format_extents(space, space.writable(), extents);
  return fds;
}

}  // namespace theus::shm
