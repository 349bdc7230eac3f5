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

std::optional<Arbiter::FreeRun> Arbiter::lend_warm(std::uint32_t length_max, std::uint64_t* at) {
  Extents& extents = impl_->tables.extents;
  StepJournal& journal = impl_->tables.journal;
  const std::uint64_t end = extents.reserve_at();
  for (std::uint64_t hop = 0; hop < kHopsPerLook && *at < end; ++hop) {
    const ExtentHead head = extents.head(*at);
    if (head.length == 0) {  // joined to another meanwhile
      ++*at;
      continue;
    }
    if (head.kind == ExtentKind::kFreeBacked) {
      const FreeRun run{*at, std::min(head.length, length_max)};
      journal.begin(kNoVersion);
      extents.take(run.extent, run.length, kLent);
      journal.end();
      *at += run.length;
      return run;
    }
    *at += head.length;
  }
  if (*at >= end) *at = extents.count();
  return std::nullopt;
}

std::optional<Arbiter::FreeRun> Arbiter::find_lent(std::uint64_t* at) {
  const Extents& extents = impl_->tables.extents;
  for (std::uint64_t hop = 0; hop < kExtentsPerLook && *at < extents.count(); ++hop) {
    const std::uint64_t here = *at;
    const ExtentHead head = extents.head(here);
    *at += std::max(head.length, 1u);
    if (head.kind == ExtentKind::kGranting && head.owner == kNoSlot) {
      return FreeRun{here, head.length};
    }
  }
  return std::nullopt;
}

std::uint64_t Arbiter::extents() const { return impl_->tables.extents.count(); }

Arbiter::Pool Arbiter::pool() const {
  const Extents& extents = impl_->tables.extents;
  const std::uint64_t low = impl_->space.header().warm_low.load(std::memory_order_relaxed);
  const std::uint64_t warm = extents.warm();
  return {warm, std::min(low, warm), extents.warm_kept()};
}

bool Arbiter::pool_wants_watch() const {
  return impl_->space.header().pool.load(std::memory_order_relaxed) !=
         static_cast<std::uint32_t>(PoolWatch::kIdle);
}

void Arbiter::watch_pool(bool watched) {
  Header& header = impl_->space.writable();
  header.warm_low.store(impl_->tables.extents.warm(), std::memory_order_relaxed);
  header.pool.store(static_cast<std::uint32_t>(watched ? PoolWatch::kWatched : PoolWatch::kIdle),
                    std::memory_order_relaxed);
}

void Arbiter::restore(FreeRun run, bool backed) {
  impl_->tables.journal.begin(kNoVersion);
  impl_->tables.extents.release(run.extent, backed);
  impl_->tables.journal.end();
}

}  // namespace theus::shm
