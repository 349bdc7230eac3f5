#include "shm/stamp.h"

#include <gnu/libc-version.h>
#include <pthread.h>

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <sstream>

#include <xxhash.h>

#include "shm/cell_class.h"
#include "shm/layout.h"

namespace theus::shm {
namespace {

// Bytes of a locked robust mutex without its owner: C libraries whose mutexes have one size but
// different insides differ here.
std::uint64_t mutex_probe() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_t probe;
  std::memset(&probe, 0, sizeof(probe));
  pthread_mutex_init(&probe, &attributes);
  pthread_mutex_lock(&probe);
  // Which bytes are in use, not what they hold: the owner's id and list links vary.
  unsigned char used[sizeof(probe)];
  const auto* bytes = reinterpret_cast<const unsigned char*>(&probe);
  const std::uint32_t kind_and_count[2] = {sizeof(probe), alignof(pthread_mutex_t)};
  std::uint64_t hash = XXH3_64bits(kind_and_count, sizeof(kind_and_count));
  for (std::size_t i = 0; i < sizeof(probe); i += 4) {
    std::uint32_t word;
    std::memcpy(&word, bytes + i, 4);
    used[i / 4] = word != 0;
  }
  // Only the first four words: lock, count, owner, users. The list links may hold zero halves.
  hash = XXH3_64bits_withSeed(used, 4, hash);
  pthread_mutex_unlock(&probe);
  pthread_mutex_destroy(&probe);
  pthread_mutexattr_destroy(&attributes);
  return hash;
}

std::uint64_t compute() {
  std::uint64_t hash = XXH3_64bits_withSeed("glibc", 5, kMagic);
  auto mix = [&hash](std::uint64_t number) { hash = XXH3_64bits_withSeed(&number, 8, hash); };
  for (std::uint64_t number : std::initializer_list<std::uint64_t>{
           sizeof(Header), sizeof(SlotRecord), sizeof(Desk), sizeof(ExtentRecord),
           sizeof(VersionRecord), sizeof(KeyRecord), sizeof(NodeRecord), sizeof(OrderChunk),
           sizeof(pthread_mutex_t), offsetof(Header, clock), offsetof(Header, lock),
           offsetof(Header, root), offsetof(Header, reserve_at), offsetof(Header, journal),
           offsetof(Header, slots),
           offsetof(Header, extents), offsetof(Desk, pins), offsetof(Desk, block_pins),
           offsetof(Desk, submission), offsetof(VersionRecord, value), offsetof(KeyRecord, key),
           offsetof(OrderChunk, place), kExtentBytes, kMaxSlots, kCommitRing, kDeskBytes,
           kUnitBytes, kCellLinked, kLastValueKind, sizeof(void*)}) {
    mix(number);
  }
  for (std::uint32_t bytes : kCellBytes) mix(bytes);
  mix(mutex_probe());
  return hash;
}

}  // namespace

std::uint64_t layout_stamp() {
  static const std::uint64_t stamp = compute();
  return stamp;
}

std::string describe_layout() {
  std::ostringstream text;
  text << "glibc " << gnu_get_libc_version() << ", mutex of " << sizeof(pthread_mutex_t)
       << " bytes, layout 0x" << std::hex << layout_stamp();
  return text.str();
}

}  // namespace theus::shm
