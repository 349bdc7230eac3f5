#include "shm/read_set.h"

#include "shm/cell_class.h"
#include "shm/index.h"
#include "shm/versions.h"

namespace theus::shm {
namespace {

// The first of the `size` rising numbers `number(i)` that is not below `wanted`.
template <class Number>
std::uint32_t lower_bound(std::uint32_t size, std::uint64_t wanted, Number number) {
  std::uint32_t low = 0, high = size;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (number(middle) < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

Decision ReadSet::check(wire::Delta::Reader delta, std::uint64_t clock) {
  snapshot_ = delta.getSnapshot();
  places_left_ = kPlacesPerDelta;
  std::uint32_t index = 0;
  std::uint64_t winner = 0;
  for (const auto check : delta.getChecks()) {
    if (!holds(check, &winner)) return {Outcome::kConflict, winner, index};
    ++index;
  }
  for (const auto absence : delta.getAbsences()) {
    if (!holds(absence, &winner)) return {Outcome::kConflict, winner, index};
    ++index;
  }
  if (!delta.hasValidated() && !delta.hasValidatedAbsences()) return {};
  return check_written_since(delta, clock);
}

std::uint32_t ReadSet::size(wire::Delta::Reader delta) {
  return delta.getChecks().size() + delta.getAbsences().size() + delta.getValidated().size() +
         delta.getValidatedAbsences().size();
}

Decision ReadSet::check_written_since(wire::Delta::Reader delta, std::uint64_t clock) const {
  const auto checks = delta.getValidated();
  const auto absences = delta.getValidatedAbsences();
  const auto sorts = delta.getAbsenceSorts();
  const std::uint32_t checks_index = delta.getChecks().size() + delta.getAbsences().size();
  const std::uint32_t absences_index = checks_index + checks.size();
  std::uint64_t good_at = delta.getValidatedAt();
  if (good_at < snapshot_ || good_at > clock || sorts.size() != absences.size()) {
    return {Outcome::kBadDelta};
  }
  const auto from = ring_.first_above(good_at);
  if (!from) return {Outcome::kValidateAgain, 0};
  const std::uint64_t end = ring_.end();
  std::uint64_t winner = 0;
  for (std::uint64_t at = *from; at < end; ++at) {
    const WriteRing::Entry entry = ring_.at(at);
    // A whole number of deltas; one has kRingPerDelta entries at most.
    if (at - *from >= kRingWalk && entry.version != good_at) {
      return {Outcome::kValidateAgain, good_at};
    }
    good_at = entry.version;
    if (!entry.subject) return {Outcome::kValidateAgain, 0};
    const std::uint64_t subject = entry.subject.raw;
    const std::uint32_t first = lower_bound(
        checks.size(), subject, [&](std::uint32_t i) { return checks[i].getSubject(); });
    for (std::uint32_t i = first; i < checks.size() && checks[i].getSubject() == subject; ++i) {
      if (i - first == kAlikeMax) return {Outcome::kBadDelta};
      if (!holds(checks[i], &winner)) return {Outcome::kConflict, winner, checks_index + i};
    }
    bool gone = false;
    if (absences.size() == 0 || !tables_.names(entry.subject, is_key, &gone)) continue;
    const std::uint64_t sort =
        tables_.key(entry.subject.unit()).sort.load(std::memory_order_relaxed);
    const std::uint32_t alike =
        lower_bound(sorts.size(), sort, [&](std::uint32_t i) { return sorts[i]; });
    for (std::uint32_t i = alike; i < sorts.size() && sorts[i] == sort; ++i) {
      if (i - alike == kAlikeMax) return {Outcome::kBadDelta};
      if (!holds(absences[i], &winner)) return {Outcome::kConflict, winner, absences_index + i};
    }
  }
  return {};
}

bool ReadSet::holds(wire::Check::Reader check, std::uint64_t* winner) const {
  const Link subject(check.getSubject());
  *winner = 0;
  const wire::Check::Kind kind = check.getKind();
  if (kind == wire::Check::Kind::KEY || kind == wire::Check::Kind::PRESENT) {
    bool gone = false;
    if (!tables_.names(subject, is_key, &gone)) return false;
    const KeyRecord* key = &tables_.key(subject.unit());
    const Link head(key->head.load(std::memory_order_relaxed));
    if (!head) return false;
    const VersionRecord& record = tables_.record(head.unit());
    const std::uint64_t died_at = record.died_at.load(std::memory_order_relaxed);
    const std::uint64_t version = record.version.load(std::memory_order_relaxed);
    *winner = died_at != 0 ? died_at : version;
    if (died_at != 0) return false;
    if (kind == wire::Check::Kind::KEY) return version == check.getSeen();
    // Present: 0, or where an iteration found it: deleted and inserted again it stands elsewhere.
    // (The transaction's own pin keeps that place from being given to another.)
    const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    const std::uint64_t place =
        std::uint64_t{record.chunk.load(std::memory_order_relaxed)} << 32 | (shape.place + 1u);
    return check.getSeen() == 0 || check.getSeen() == place;
  }
  bool gone = false;
  if (!tables_.names(subject, is_node, &gone)) return false;
  const NodeRecord* node = &tables_.node(subject.unit());
  *winner = node->structure_version.load(std::memory_order_relaxed);
  if (kind == wire::Check::Kind::EMPTINESS) {
    const bool empty = node->count.load(std::memory_order_relaxed) == 0;
    return empty == (check.getSeen() != 0);
  }
  if (*winner <= snapshot_) return true;
  return kind == wire::Check::Kind::LAST && is_last(*node, check.getSeen());
}

// Whether the last live entry of the node stands at `place`. No, if that takes too long to find
// out. Read as readers do it: a node that is still being linked in advance may name anything.
bool ReadSet::is_last(const NodeRecord& node, std::uint64_t place) const {
  const Space& space = tables_.space;
  Link chunk;
  bool good = last_chunk(space, node, &chunk);
  while (good && chunk) {
    SeenPlace seen;
    if (!read_place(space, chunk, 0, &seen)) return false;
    for (std::uint32_t at = seen.shape.used; at-- > 0;) {
      if (places_left_ == 0) return false;
      --places_left_;
      if (!read_place(space, chunk, at, &seen)) return false;
      const auto* key = seen.key ? space.cell<KeyRecord>(seen.key) : nullptr;
      SeenRecord record;
      if (key == nullptr ||
          newest(space, Link(key->head.load(std::memory_order_acquire)), &record) !=
              Seen::kVisible ||
          record.died_at != 0 || record.chunk != chunk.unit() || record.shape.place != at) {
        continue;  // nothing, dead, or deleted here and inserted again further on
      }
      return (std::uint64_t{chunk.unit()} << 32 | (at + 1u)) == place;
    }
    if (places_left_ == 0) return false;
    --places_left_;  // for a chunk without any
    good = chunk_before(space, chunk, &chunk);
  }
  return false;
}

bool ReadSet::holds(wire::Absence::Reader absence, std::uint64_t* winner) const {
  const auto bytes = absence.getKey();
  *winner = 0;
  if (bytes.size() == 0 || bytes.size() > kMaxKeyBytes || absence.getCompared() == 0 ||
      absence.getCompared() > bytes.size()) {
    return false;
  }
  const KeyView key(reinterpret_cast<const char*>(bytes.begin()),
                    static_cast<std::uint16_t>(bytes.size()), absence.getCompared());
  const std::uint64_t seed = tables_.header().hash_seed.load(std::memory_order_relaxed);
  const std::uint32_t unit =
      tables_.index.find(absence.getNode(), key, hash_key(seed, absence.getNode(), key));
  if (unit == 0) return true;
  const Link head(tables_.key(unit).head.load(std::memory_order_relaxed));
  if (!head) return true;
  const VersionRecord& record = tables_.record(head.unit());
  *winner = record.version.load(std::memory_order_relaxed);
  return record.died_at.load(std::memory_order_relaxed) != 0;
}

}  // namespace theus::shm
