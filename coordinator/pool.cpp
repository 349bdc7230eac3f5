#include "coordinator/pool.h"

#include <algorithm>
#include <string>

namespace theus::coordinator {
namespace {

// Off the path of those who wait for the coordinator to start.
constexpr std::uint64_t kReserveDelayNs = 100'000'000;
constexpr std::uint32_t kPunchedAtOnce = (4u << 20) / shm::kExtentBytes;
constexpr std::uint32_t kBackedAtOnce = (1u << 20) / shm::kExtentBytes;

}  // namespace

Pool::Pool(const shm::Space& space, shm::Arbiter& arbiter, Settings settings, spdlog::logger& log,
           std::uint64_t now_ns)
    : space_(space),
      arbiter_(arbiter),
      settings_(settings),
      log_(log),
      reserve_due_ns_(now_ns + kReserveDelayNs) {}

std::uint64_t Pool::due_ns() const { return std::min(reserve_due_ns_, watch_due_ns_); }

void Pool::look(std::uint64_t now_ns) {
  if (now_ns >= reserve_due_ns_) {
    reserve_due_ns_ = kNever;
    reserve_wanted_ = true;
  }
  if (now_ns >= watch_due_ns_) {
    watch_due_ns_ = kNever;
    judging_ = true;
  }
}

bool Pool::wants_lock() const {
  return out_ || recovering_ || reserve_wanted_ || judging_ || surplus_ > 0;
}

void Pool::work(std::uint64_t now_ns) {
  if (out_) {
    arbiter_.restore(*out_, has_memory_);
    out_.reset();
  }
  if (recovering_ && recover_at_ == 0) {
    // Read by whoever gives memory back; a hint.
    space_.writable().warm_keep.store(settings_.keep_bytes / shm::kExtentBytes,
                                      std::memory_order_relaxed);
  }
  const bool watching = judging_ || watch_due_ns_ != kNever;
  if (!watching && arbiter_.pool_wants_watch()) {
    arbiter_.watch_pool(true);
    watch_due_ns_ = now_ns + settings_.window_ns;
  }
  if (judging_) {
    judge(now_ns);
  }
  if (!take_out() && reserve_failed_ && reserve_due_ns_ == kNever) {
    reserve_due_ns_ = now_ns + settings_.window_ns;
  }
}

// At the end of a window: what nobody has used in it, and is more than what is kept, is too much.
void Pool::judge(std::uint64_t now_ns) {
  judging_ = false;
  const shm::Arbiter::Pool pool = arbiter_.pool();
  surplus_ = pool.low > pool.kept ? pool.low - pool.kept : 0;
  surplus_at_ = 0;
  const bool watched = pool.warm > pool.kept;
  arbiter_.watch_pool(watched);
  if (watched) {
    watch_due_ns_ = now_ns + settings_.window_ns;
  }
}

// The next run to work on. False: there is none.
bool Pool::take_out() {
  has_memory_ = false;
  change_ = Change::kTakeAway;
  if (recovering_) {
    out_ = arbiter_.find_lent(&recover_at_);
    recovering_ = out_ || recover_at_ < arbiter_.extents();
  } else if (surplus_ > 0) {
    const shm::Arbiter::Pool pool = arbiter_.pool();
    surplus_ = std::min(surplus_, pool.warm > pool.kept ? pool.warm - pool.kept : 0);
    if (surplus_ > 0) {
      out_ = arbiter_.lend_warm(
          static_cast<std::uint32_t>(std::min<std::uint64_t>(surplus_, kPunchedAtOnce)),
          &surplus_at_);
    }
    if (out_) {
      surplus_ -= out_->length;
    } else if (surplus_at_ >= arbiter_.extents()) {
      surplus_ = 0;
    }
  } else if (reserve_wanted_) {
    change_ = Change::kGiveMemory;
    out_ = arbiter_.lend_raw_reserve(kBackedAtOnce);
    reserve_wanted_ = out_.has_value();
  }
  return out_.has_value();
}

void Pool::between() {
  if (!out_) {
    return;
  }
  const std::uint64_t offset = arbiter_.extent_offset(out_->extent);
  const std::uint64_t bytes = out_->length * shm::kExtentBytes;
  std::string why;
  has_memory_ = change_ == Change::kGiveMemory && space_.back(offset, bytes, &why);
  if (has_memory_) {
    reserve_failed_ = false;
    return;
  }
  space_.punch(offset, bytes);
  if (change_ == Change::kGiveMemory) {
    if (!reserve_failed_) {
      log_.warn("no memory for the reserve that deletes in a full state need: {}", why);
    }
    reserve_failed_ = true;
    reserve_wanted_ = false;
  }
}

}  // namespace theus::coordinator
