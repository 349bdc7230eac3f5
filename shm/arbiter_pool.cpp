// The arbiter's part in the pool of free memory: what the coordinator takes out of it to give it
// memory, or to give its memory back to the system. Lock held.
//
// What is out stands as kGranting without an owner: no search finds it, no eviction takes it, and
// the next coordinator does if this one dies.
#include <algorithm>

#include "shm/arbiter_impl.h"

namespace theus::shm {
namespace {

constexpr std::uint64_t kHopsPerLook = 2048;
constexpr std::uint64_t kExtentsPerLook = 8192;
constexpr ExtentHead kLent = {ExtentKind::kGranting, kRunClass, kNoSlot, 0};

}  // namespace

std::optional<Arbiter::FreeRun> Arbiter::lend_raw_reserve(std::uint32_t length_max) {
  Tables& tables = impl_->tables;
  for (std::uint64_t at = tables.extents.reserve_at(); at < tables.extents.count();) {
    const ExtentHead head = tables.extents.head(at);
    if (head.length == 0) break;  // damaged
    if (head.kind == ExtentKind::kFreeRaw) {
      const FreeRun run{at, std::min(head.length, length_max)};
      tables.journal.begin(kNoVersion);
      tables.extents.take(run.extent, run.length, kLent);
      tables.journal.end();
      return run;
    }
    at += head.length;
  }
  return std::nullopt;
}

void Arbiter::restore(FreeRun run, bool backed) {
  impl_->tables.journal.begin(kNoVersion);
  impl_->tables.extents.release(run.extent, backed);
  impl_->tables.journal.end();
}

}  // namespace theus::shm
