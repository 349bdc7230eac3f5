#include "worker/validate.h"

#include <algorithm>

#include "shm/index.h"
#include "shm/versions.h"
#include "worker/reader.h"

namespace theus::worker {

using shm::Link;
using Kind = shm::wire::Check::Kind;

namespace {

constexpr int kChainTries = 4;

enum class Judged : std::uint8_t { kHolds, kFails, kOpen };

class Judge {
 public:
  Judge(const shm::Space& space, std::uint64_t snapshot)
      : space_(space),
        snapshot_(snapshot),
        clock_(space.header().clock.load(std::memory_order_acquire)) {}

  std::uint64_t clock() const { return clock_; }
  std::uint64_t winner() const { return winner_; }

  Judged judge(const PlannedCheck& check) {
    switch (check.kind) {
      case Kind::KEY:
        // The one that was seen is the newest as long as it is alive.
        return alive(*check.entry) ? Judged::kHolds : Judged::kFails;
      case Kind::PRESENT:
        return alive(*check.entry) || present(check) ? Judged::kHolds : Judged::kOpen;
      case Kind::STRUCTURE:
        return structure(check);
      case Kind::LAST:
        // Which one is the last at the clock cannot be told once others have come or gone.
        return structure(check) == Judged::kHolds ? Judged::kHolds : Judged::kOpen;
      case Kind::EMPTINESS:
        return emptiness(check);
    }
    return Judged::kOpen;
  }

  // A key that is not there at the clock is absent, or its last insertion is above the clock. (Not
  // so the other way round: of a key that came before the clock and was replaced after it, no
  // record may be left that shows it at the clock.)
  Judged judge_absence(const Entry& entry) {
    const Found found = lookup(space_, entry.mapping->node, entry.key, entry.hash, clock_);
    if (!found.visible) return Judged::kHolds;
    winner_ = found.seen.version;
    return Judged::kFails;
  }

 private:
  bool alive(const Entry& entry) {
    const auto* record = space_.cell<shm::VersionRecord>(Link(entry.record_link));
    winner_ = record->died_at.load(std::memory_order_acquire);
    return winner_ == 0 || winner_ > clock_;
  }

  // The key has another value now: whether it has one at the clock, at the place it had.
  bool present(const PlannedCheck& check) const {
    const auto* key = space_.cell<shm::KeyRecord>(Link(check.link));
    for (int i = 0; i < kChainTries; ++i) {
      shm::SeenRecord seen;
      const Link head(key->head.load(std::memory_order_acquire));
      const shm::Seen how = shm::visible_at(space_, head, clock_, &seen);
      if (how == shm::Seen::kAgain) continue;
      const std::uint64_t place = std::uint64_t{seen.chunk} << 32 | (seen.shape.place + 1u);
      // Absent proves nothing: see judge_absence.
      return how == shm::Seen::kVisible && (check.seen == 0 || check.seen == place);
    }
    return false;
  }

  Judged structure(const PlannedCheck& check) {
    const auto* node = space_.cell<shm::NodeRecord>(Link(check.link));
    winner_ = node->structure_version.load(std::memory_order_acquire);
    if (winner_ <= snapshot_) return Judged::kHolds;
    return winner_ <= clock_ ? Judged::kFails : Judged::kOpen;
  }

  Judged emptiness(const PlannedCheck& check) {
    const auto* node = space_.cell<shm::NodeRecord>(Link(check.link));
    const auto count = settled_count(space_, *node, clock_);
    if (!count) return Judged::kOpen;
    winner_ = node->structure_version.load(std::memory_order_acquire);
    return (*count == 0) == (check.seen != 0) ? Judged::kHolds : Judged::kFails;
  }

  const shm::Space& space_;
  const std::uint64_t snapshot_;
  const std::uint64_t clock_;
  std::uint64_t winner_ = 0;  // who made the last one fail
};

}  // namespace

std::optional<Refuted> validate(const Transaction::State& state, Plan& plan) {
  Judge judge(state.in.space, state.version);
  plan.validated_at = judge.clock();
  std::size_t open = 0;
  for (const PlannedCheck& check : plan.checks) {
    switch (judge.judge(check)) {
      case Judged::kHolds:
        plan.validated.push_back(check);
        break;
      case Judged::kFails:
        return Refuted{check.entry, check.mapping, judge.winner()};
      case Judged::kOpen:
        plan.checks[open++] = check;
        break;
    }
  }
  plan.checks.resize(open);
  for (PlannedAbsence& absence : plan.absences) {
    if (judge.judge_absence(*absence.entry) == Judged::kFails) {
      return Refuted{absence.entry, nullptr, judge.winner()};
    }
    absence.sort = shm::key_sort(absence.entry->hash);
  }
  plan.validated_absences.swap(plan.absences);
  std::sort(plan.validated.begin(), plan.validated.end(),
            [](const PlannedCheck& a, const PlannedCheck& b) { return a.link < b.link; });
  std::sort(plan.validated_absences.begin(), plan.validated_absences.end(),
            [](const PlannedAbsence& a, const PlannedAbsence& b) { return a.sort < b.sort; });
  return std::nullopt;
}

}  // namespace theus::worker
