// The segments as a process has them mapped: what can be written, and what a child inherits.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "shm/space.h"
#include "shm/stamp.h"
#include "tests/cpp/harness.h"

namespace theus::testing {
namespace {

using shm::Access;
using shm::Space;

// "rw-p" of the mapping that `address` lies in; empty: nothing is mapped there.
std::string permissions(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    unsigned long from = 0, to = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, mode) == 3 && from <= wanted &&
        wanted < to) {
      return mode;
    }
  }
  return "";
}

// Status of a child that does `body`, as waitpid gives it.
template <class Body>
int in_child(Body body) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  return wait_for(pid);
}

bool with_processes() {
#if defined(__SANITIZE_THREAD__)
  return false;
#else
  return true;
#endif
}
constexpr const char* kNoProcesses = "ThreadSanitizer sees one process, and places its mappings";

TEST(ShmSpace, CapacityHasLimits) {
  EXPECT_THROW(shm::create_segments(0), std::invalid_argument);
  EXPECT_THROW(shm::create_segments(shm::kMinCapacityBytes - 1), std::invalid_argument);
  EXPECT_THROW(shm::create_segments(shm::kMaxCapacityBytes + 1), std::invalid_argument);
  const shm::SegmentFds fds = shm::create_segments(shm::kMinCapacityBytes + 1);
  const Space space(fds, Access::kOneView);
  EXPECT_LE(space.capacity_bytes(), shm::kMinCapacityBytes + 1);
  EXPECT_GT(space.capacity_bytes(), shm::kMinCapacityBytes - shm::kExtentBytes);
}

TEST(ShmSpace, TheLargestStateHasUnitsForAllOfIt) {
  // Sparse: only its header has memory.
  const shm::SegmentFds fds = shm::create_segments(shm::kMaxCapacityBytes);
  const Space space(fds, Access::kObserver);
  EXPECT_LE(space.capacity_bytes() / shm::kUnitBytes, 1ull << 32);
  const shm::Header& header = space.header();
  EXPECT_EQ(header.extents_offset.load() + header.extent_count.load() * shm::kExtentBytes,
            space.capacity_bytes());
}

TEST(ShmSpace, TheHeaderBeginsOnAPage) {
  World world(shm::kMinCapacityBytes);
  const Space space(world.fds(), Access::kWorker);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&space.header()) % shm::kPageBytes, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&space.writable()) % shm::kPageBytes, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&space.desk(1)) % shm::kPageBytes, 0u);
  EXPECT_EQ(space.header().extents_offset.load() % shm::kExtentBytes, 0u);
  EXPECT_GE(space.header().extents_offset.load(),
            sizeof(shm::Header) +
                (space.header().extent_count.load() - 1) * sizeof(shm::ExtentRecord));
}

TEST(ShmSpace, AFreshStateIsEmpty) {
  World world(shm::kMinCapacityBytes);
  const shm::Header& header = world.space().header();
  EXPECT_EQ(header.magic.load(), shm::kMagic);
  EXPECT_EQ(header.stamp.load(), shm::layout_stamp());
  EXPECT_EQ(header.clock.load(), 0u);
  EXPECT_EQ(header.key_count.load(), 0u);
  const shm::Link root(header.root.load());
  ASSERT_TRUE(root);
  EXPECT_EQ(world.space().cell<shm::NodeRecord>(root)->cell.generation.load(), root.generation());
}

TEST(ShmSpace, BothViewsAreTheSameMemory) {
  World world(shm::kMinCapacityBytes);
  const Space space(world.fds(), Access::kWorker);
  EXPECT_NE(static_cast<const void*>(space.readable_base()), space.writable_base());
  space.writable().ring[5].subject.store(42);
  EXPECT_EQ(space.header().ring[5].subject.load(), 42u);
  EXPECT_EQ(world.space().header().ring[5].subject.load(), 42u);
}

TEST(ShmSpace, TheReadableViewCannotBeMadeWritable) {
  World world(shm::kMinCapacityBytes);
  for (const Access access : {Access::kWorker, Access::kObserver}) {
    const Space space(world.fds(), access);
    void* page = const_cast<std::byte*>(space.readable_base());
    EXPECT_EQ(permissions(page).substr(0, 2), "r-");
    EXPECT_EQ(mprotect(page, shm::kPageBytes, PROT_READ | PROT_WRITE), -1);
    EXPECT_EQ(errno, EACCES);
    EXPECT_EQ(permissions(page).substr(0, 2), "r-");
  }
}

TEST(ShmSpace, GuardsStandAroundTheWritableView) {
  if (!with_processes()) GTEST_SKIP() << kNoProcesses;
  World world(shm::kMinCapacityBytes);
  const Space space(world.fds(), Access::kWorker);
  EXPECT_EQ(permissions(space.writable_base()).substr(0, 2), "rw");
  EXPECT_EQ(permissions(space.writable_base() - 1).substr(0, 3), "---");
  EXPECT_EQ(permissions(space.writable_base() + space.capacity_bytes()).substr(0, 3), "---");
}

TEST(ShmSpace, AChildHasNoWritableView) {
  if (!with_processes()) GTEST_SKIP() << kNoProcesses;
  World world(shm::kMinCapacityBytes);
  const Space space(world.fds(), Access::kWorker);
  std::byte* alias = space.writable_base();
  EXPECT_EQ(in_child([&] { return permissions(alias).substr(0, 3) == "---" ? 0 : 1; }), 0)
      << "the hole is not closed";
  // Whatever the child maps next does not come to lie there.
  EXPECT_EQ(in_child([&] {
              for (int i = 0; i < 64; ++i) {
                void* got = mmap(alias, shm::kPageBytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (got == alias) return 1;
              }
              return 0;
            }),
            0);
  const std::uint64_t before = world.space().header().ring[0].subject.load();
  const int status = in_child([&] {
    space.writable().ring[0].subject.store(before + 1);
    return 0;
  });
  EXPECT_NE(status, 0) << "the store went through";
  EXPECT_EQ(world.space().header().ring[0].subject.load(), before);
  // Reading goes on.
  EXPECT_EQ(in_child([&] { return space.header().magic.load() == shm::kMagic ? 0 : 1; }), 0);
}

TEST(ShmSpace, AHoleIsForgottenWithItsSpace) {
  if (!with_processes()) GTEST_SKIP() << kNoProcesses;
  World world(shm::kMinCapacityBytes);
  // More than the table has room for, one after the other.
  for (int i = 0; i < 200; ++i) const Space each(world.fds(), Access::kWorker);
  const Space last(world.fds(), Access::kWorker);
  std::byte* alias = last.writable_base();
  EXPECT_EQ(in_child([&] { return permissions(alias).substr(0, 3) == "---" ? 0 : 1; }), 0);
}

TEST(ShmSpace, AnotherLayoutIsRefusedNamingBoth) {
  World world(shm::kMinCapacityBytes);
  const std::uint64_t stamp = world.space().header().stamp.load();
  world.space().writable().stamp.store(0xABCDEF);
  for (const Access access : {Access::kWorker, Access::kObserver, Access::kOneView}) {
    try {
      const Space space(world.fds(), access);
      ADD_FAILURE() << "accepted";
    } catch (const std::runtime_error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("0xabcdef"), std::string::npos) << text;
      EXPECT_NE(text.find(shm::describe_layout()), std::string::npos) << text;
    }
  }
  world.space().writable().stamp.store(stamp);
  world.space().writable().magic.store(0);
  EXPECT_THROW(Space(world.fds(), Access::kObserver), std::runtime_error);
}

TEST(ShmSpace, ATruncatedSegmentIsRefused) {
  shm::SegmentFds fds = shm::create_segments(shm::kMinCapacityBytes);
  ASSERT_EQ(ftruncate(fds.data_writable, shm::kPageBytes), 0);
  EXPECT_THROW(Space(fds, Access::kObserver), std::runtime_error);
  EXPECT_THROW(Space(fds, Access::kWorker), std::runtime_error);
}

TEST(ShmSpace, AddressesAreChecked) {
  World world(shm::kMinCapacityBytes);
  const Space& space = world.space();
  const std::uint64_t end = space.capacity_bytes();
  EXPECT_NE(space.at(0, end), nullptr);
  EXPECT_NE(space.at(end, 0), nullptr);
  EXPECT_EQ(space.at(end, 1), nullptr);
  EXPECT_EQ(space.at(end - 7, 8), nullptr);
  EXPECT_EQ(space.at(8, ~std::uint64_t{0}), nullptr) << "the sum wraps round";
  EXPECT_EQ(space.at(~std::uint64_t{0}, 8), nullptr);
}

TEST(ShmSpace, MemoryIsTakenAndGivenBack) {
  World world(shm::kMinCapacityBytes);
  const Space& space = world.space();
  const std::uint64_t offset = space.header().extents_offset.load() + 4 * shm::kExtentBytes;
  std::string why;
  ASSERT_TRUE(space.back(offset, shm::kExtentBytes, &why)) << why;
  space.writable_base()[offset] = std::byte{7};
  space.writable_base()[offset + shm::kPageBytes] = std::byte{7};
  // Only whole pages inside go.
  space.punch(offset + 1, shm::kPageBytes * 2);
  EXPECT_EQ(space.readable_base()[offset], std::byte{7});
  EXPECT_EQ(space.readable_base()[offset + shm::kPageBytes], std::byte{0});
  EXPECT_FALSE(space.back(0, 1ull << 60, &why));
  EXPECT_NE(why.find("MiB"), std::string::npos) << why;
}

}  // namespace
}  // namespace theus::testing
