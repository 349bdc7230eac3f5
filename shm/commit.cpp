#include "shm/commit.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <bit>

#include "shm/fold.h"

namespace theus::shm {
namespace {

constexpr std::uint32_t kDepthMax = 4096;  // far above any nesting the bindings allow

// What the checks of written keys may read again: the keys of absences.
constexpr std::uint64_t kReadAgainWords =
    (kRingWalk + kRingPerDelta) * kAlikeMax * (kMaxKeyBytes / 8 + 1);

// The words of a submission, or an empty array when the desk's numbers make no sense.
kj::ArrayPtr<const capnp::word> submission_words(const Space& space, std::uint32_t slot) {
  const Desk& desk = space.desk(slot);
  const std::uint64_t words = desk.submission_words.load(std::memory_order_acquire);
  const Link link(desk.submission_link.load(std::memory_order_acquire));
  const std::byte* begin = nullptr;
  if (!link) {
    if (words <= kSubmissionBytes / 8) begin = desk.submission;
  } else {
    const auto place = locate_cell(space, link.unit());
    if (place && place->head.kind == ExtentKind::kRun && place->head.owner == slot &&
        words <= (place->head.length * kExtentBytes - kAlignedPayload) / 8) {
      begin = space.writable_base() + link.offset() + kAlignedPayload;
    }
  }
  if (begin == nullptr || words == 0) return nullptr;
  return {reinterpret_cast<const capnp::word*>(begin), static_cast<std::size_t>(words)};
}

}  // namespace

Decision Committer::decide(std::uint32_t slot) noexcept {
  tables_.journal.end();
  try {
    const auto words = submission_words(tables_.space, slot);
    if (words.size() == 0) return {Outcome::kBadDelta};
    const kj::ArrayPtr<const capnp::word> segments[1] = {words};
    // The limit stops a message whose lists overlap to look larger than it is; lists are walked
    // at most twice.
    capnp::ReaderOptions options;
    options.traversalLimitInWords = words.size() * 4 + kReadAgainWords;
    capnp::SegmentArrayMessageReader message(kj::arrayPtr(segments, 1), options);
    const auto delta = message.getRoot<wire::Delta>();
    Decision decision = decide_message(slot, delta);
    decision.ends_turn = delta.getEndsTurn();
    return decision;
  } catch (...) {
    // Cap'n Proto found the message malformed. Nothing has been changed: operations are read
    // before their first store, and what earlier ones stored is taken back here.
    tables_.journal.undo();
    return {Outcome::kBadDelta};
  }
}

Decision Committer::decide_message(std::uint32_t slot, wire::Delta::Reader delta) {
  Header& header = tables_.header();
  linker_.work_for(slot);
  snapshot_ = delta.getSnapshot();
  const std::uint64_t clock = header.clock.load(std::memory_order_relaxed);
  version_ = clock + 1;
  if (snapshot_ > clock ||
      delta.getSequence() != tables_.space.desk(slot).request.load(std::memory_order_relaxed)) {
    return {Outcome::kBadDelta};
  }
  const Decision read = read_set_.check(delta, clock);
  if (read.outcome != Outcome::kNone) return read;

  std::uint64_t region = 0, region_entries = 0;
  if (const Link link(delta.getJournalRegion()); link) {
    const auto place = locate_cell(tables_.space, link.unit());
    const bool is_message =
        link.raw == tables_.space.desk(slot).submission_link.load(std::memory_order_relaxed);
    if (!linker_.owns(link, [](std::uint8_t c) { return c == kRunClass; }) || is_message) {
      return {Outcome::kBadDelta};
    }
    region = link.offset() + kAlignedPayload;
    region_entries = (place->head.length * kExtentBytes - kAlignedPayload) / sizeof(JournalEntry);
  }

  // A version that an owner left here, who died between its answer and clearing it, goes first;
  // then the request, then the version: at no time does a version stand beside a request that it
  // is not for. (tests/model/commit_death.pml)
  header.slots[slot].assigned.store(0, std::memory_order_release);
  header.slots[slot].assigned_request.store(delta.getSequence(), std::memory_order_release);
  header.slots[slot].assigned.store(version_, std::memory_order_release);
  tables_.journal.begin(version_, region, region_entries);
  ring_.begin(version_);
  std::uint32_t done = 0;
  std::uint64_t winner = 0;
  Applied applied = Applied::kDone;
  const auto goes_on = [&] { return applied == Applied::kDone && !tables_.journal.full(); };
  for (const auto operation : delta.getOperations()) {
    applied = apply(operation, &winner);
    if (!goes_on()) break;
    ++done;
  }
  if (goes_on()) {
    for (const std::uint64_t key : delta.getDeletes()) {
      applied = apply_delete(Link(key), &winner);
      if (!goes_on()) break;
      ++done;
    }
  }
  if (!goes_on()) {
    const bool full = tables_.journal.full();
    tables_.journal.undo();
    header.slots[slot].assigned.store(0, std::memory_order_release);
    if (full) return {Outcome::kJournalFull};
    return {applied == Applied::kBad ? Outcome::kBadDelta : Outcome::kConflict, winner,
            ReadSet::size(delta) + done};
  }
  header.winner_pid[version_ % kCommitRing].store(
      header.slots[slot].pid.load(std::memory_order_relaxed), std::memory_order_relaxed);
  // The commit. Release: whoever reads this clock sees every word of the delta.
  header.clock.store(version_, std::memory_order_release);
  // The entries must not outlive the commit: a later undo would take it back, and a region that
  // the delta brought is given back with it.
  tables_.journal.end();
  return {Outcome::kCommitted, version_};
}

// True if the key's newest version is younger than `basis`: first committer wins, whether or not
// the transaction has read it.
bool Committer::changed_since(std::uint32_t key_unit, std::uint64_t basis,
                              std::uint64_t* winner) const {
  const Link head(tables_.key(key_unit).head.load(std::memory_order_relaxed));
  if (!head) return false;
  const VersionRecord& record = tables_.record(head.unit());
  const std::uint64_t died_at = record.died_at.load(std::memory_order_relaxed);
  *winner = died_at != 0 ? died_at : record.version.load(std::memory_order_relaxed);
  if (*winner > basis) return true;
  if (died_at != 0) return false;
  // Replacing or deleting a node conflicts with anything written below it.
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (shape.kind != ValueKind::kNode) return false;
  const Link node(record.value[0].load(std::memory_order_relaxed));
  const std::uint64_t below =
      tables_.node(node.unit()).below_version.load(std::memory_order_relaxed);
  if (below <= basis || below == version_) return false;
  *winner = below;
  return true;
}

void Committer::superseded(const VersionRecord& record) {
  const RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
  if (shape.kind == ValueKind::kNode) urgent_ = true;
  if (!holds_block(shape.kind)) return;
  const Link block(record.value[0].load(std::memory_order_relaxed));
  const auto place = locate_cell(tables_.space, block.unit());
  if (place && place->head.kind == ExtentKind::kRun) urgent_ = true;
}

void Committer::raise_below(std::uint32_t node_unit) {
  for (std::uint32_t depth = 0; depth < kDepthMax; ++depth) {
    NodeRecord& node = tables_.node(node_unit);
    // An earlier operation of this delta has been here, and went on to the root.
    if (node.below_version.load(std::memory_order_relaxed) == version_) return;
    tables_.journal.set(node.below_version, version_);
    const Link bound_to(node.parent.load(std::memory_order_relaxed));
    if (!bound_to) return;
    node_unit = Link(tables_.key(bound_to.unit()).node.load(std::memory_order_relaxed)).unit();
  }
}

// An entry of the node has come (1), gone (-1) or moved to the end (0). Structure version before
// count: a reader that sees the count of a step under way sees its version, too.
void Committer::change_keys(std::uint32_t node_unit, int by) {
  NodeRecord& node = tables_.node(node_unit);
  const std::uint64_t count =
      node.count.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(by);
  if (node.structure_version.load(std::memory_order_relaxed) != version_) {
    tables_.journal.set(node.structure_version, version_);
    ring_.note(Link(node.cell.generation.load(std::memory_order_relaxed), node_unit));
  }
  tables_.journal.set_often(node.count, count);
}

Committer::Applied Committer::apply(wire::Operation::Reader operation, std::uint64_t* winner) {
  const Link node_link(operation.getNode());
  *winner = 0;
  bool gone = false;
  if (!tables_.names(node_link, is_node, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  if (operation.getBasis() >= version_ ||
      static_cast<std::uint16_t>(operation.getFold()) > kLastFold)
    return Applied::kBad;
  Applied applied = Applied::kBad;
  if (operation.getKind() == wire::Operation::Kind::INSERT) {
    applied = insert(node_link.unit(), operation, winner);
  } else {
    const Link key_link(operation.getKey());
    // A key that is gone has been deleted, and its record reclaimed.
    if (!tables_.names(key_link, is_key, &gone)) return gone ? Applied::kConflict : Applied::kBad;
    const KeyRecord* key = &tables_.key(key_link.unit());
    if (key->node.load(std::memory_order_relaxed) != node_link.raw) return Applied::kBad;
    applied = replace(node_link.unit(), key_link.unit(), operation, winner);
  }
  if (applied == Applied::kDone) raise_below(node_link.unit());
  return applied;
}

Committer::Applied Committer::apply_delete(Link key_link, std::uint64_t* winner) {
  *winner = 0;
  bool gone = false;
  // A key that is gone has been deleted, and its record reclaimed.
  if (!tables_.names(key_link, is_key, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  const Link node_link(tables_.key(key_link.unit()).node.load(std::memory_order_relaxed));
  if (!tables_.names(node_link, is_node, &gone)) return gone ? Applied::kConflict : Applied::kBad;
  const Applied applied = remove(node_link.unit(), key_link.unit(), winner);
  if (applied == Applied::kDone) raise_below(node_link.unit());
  return applied;
}

void Committer::note_write(Link key) {
  reclaimer_.note(key);
  ring_.note(key);
}

// Fills the record of a fold: the operand, folded onto the number that `newest` holds if there is
// one. Nobody reads the record before it is linked. The operand is in the message, not in the
// record: whoever arbitrates again after a death here finds it as it was.
Committer::Applied Committer::fill(VersionRecord& record, const VersionRecord* newest,
                                   wire::Operation::Reader operation) const {
  const auto number_of = [](bool is_real, std::uint64_t bits) {
    return is_real ? Number::of(std::bit_cast<double>(bits))
                   : Number::of(std::bit_cast<std::int64_t>(bits));
  };
  Number number = number_of(operation.getOperandIsReal(), operation.getOperand());
  if (newest != nullptr) {
    // Two operations on one key: no worker sends that.
    if (newest->version.load(std::memory_order_relaxed) == version_) return Applied::kBad;
    const auto kind = RecordShape::unpack(newest->shape.load(std::memory_order_relaxed)).kind;
    if (kind != ValueKind::kInt && kind != ValueKind::kFloat) return Applied::kConflict;
    const auto result =
        fold(static_cast<Fold>(operation.getFold()),
             number_of(kind == ValueKind::kFloat, newest->value[0].load(std::memory_order_relaxed)),
             number);
    if (!result) return Applied::kConflict;
    number = *result;
  } else if (operation.getKind() == wire::Operation::Kind::PUT) {
    return Applied::kConflict;  // deleted since, and the delta brought no place in the order
  }
  const ValueKind kind = number.is_real ? ValueKind::kFloat : ValueKind::kInt;
  record.shape.store(RecordShape{0, kind, 0}.pack(), std::memory_order_release);
  record.value[0].store(number.is_real ? std::bit_cast<std::uint64_t>(number.real)
                                       : std::bit_cast<std::uint64_t>(number.integer),
                        std::memory_order_release);
  return Applied::kDone;
}

Committer::Applied Committer::replace(std::uint32_t node_unit, std::uint32_t key_unit,
                                      wire::Operation::Reader operation, std::uint64_t* winner) {
  const bool folds = operation.getFold() != wire::Operation::Fold::NONE;
  const std::uint64_t basis = operation.getBasis() != 0 ? operation.getBasis() : snapshot_;
  if (changed_since(key_unit, basis, winner) && !folds) return Applied::kConflict;
  const Link record_link(operation.getRecord());
  if (!linker_.owns(record_link, is_record)) return Applied::kBad;
  KeyRecord& key = tables_.key(key_unit);
  const Link key_link(key.cell.generation.load(std::memory_order_relaxed), key_unit);
  VersionRecord& record = tables_.record(record_link.unit());
  const Link head(key.head.load(std::memory_order_relaxed));
  VersionRecord* old = head ? &tables_.record(head.unit()) : nullptr;
  record.prev.store(head.raw, std::memory_order_release);
  const bool alive = old != nullptr && old->died_at.load(std::memory_order_relaxed) == 0;
  if (folds) {
    const Applied filled = fill(record, alive ? old : nullptr, operation);
    if (filled != Applied::kDone) return filled;
  }
  if (alive) {
    tables_.journal.set(old->died_at, version_);
    superseded(*old);
  }
  const bool moved = operation.getMoved();
  if (alive && !moved) {
    RecordShape shape = RecordShape::unpack(record.shape.load(std::memory_order_relaxed));
    shape.place = RecordShape::unpack(old->shape.load(std::memory_order_relaxed)).place;
    record.shape.store(shape.pack(), std::memory_order_release);
    record.chunk.store(old->chunk.load(std::memory_order_relaxed), std::memory_order_release);
  } else {
    // Deleted before: this is a new incarnation, at the end of the order.
    const std::uint32_t spare = linker_.usable_spare(Link(operation.getSpareChunk()));
    if (!tables_.append_place(node_unit, key_link, record, spare)) return Applied::kBad;
    change_keys(node_unit, alive ? 0 : 1);
  }
  if (!linker_.link_record(record_link, key_link, version_)) return Applied::kBad;
  tables_.journal.set(key.head, record_link.raw);
  if (old != nullptr) tables_.retain(key_unit);
  note_write(key_link);
  return Applied::kDone;
}

Committer::Applied Committer::insert(std::uint32_t node_unit, wire::Operation::Reader operation,
                                     std::uint64_t* winner) {
  const Link key_link(operation.getNewKey());
  const Link record_link(operation.getRecord());
  if (!linker_.owns(key_link, is_key) || !linker_.owns(record_link, is_record))
    return Applied::kBad;
  KeyRecord& key = tables_.key(key_link.unit());
  if (key.node.load(std::memory_order_relaxed) != operation.getNode() ||
      !linker_.well_formed_key(key_link)) {
    return Applied::kBad;
  }
  const KeyShape shape = KeyShape::unpack(key.shape.load(std::memory_order_relaxed));
  const KeyView view(reinterpret_cast<const char*>(&key.key[0]), shape.size, shape.compared);
  const std::uint64_t seed = tables_.header().hash_seed.load(std::memory_order_relaxed);
  const std::uint64_t hash = hash_key(seed, operation.getNode(), view);
  if (const std::uint32_t known = tables_.index.find(operation.getNode(), view, hash); known != 0) {
    return replace(node_unit, known, operation, winner);  // others have inserted it since
  }
  VersionRecord& record = tables_.record(record_link.unit());
  if (operation.getFold() != wire::Operation::Fold::NONE) fill(record, nullptr, operation);
  record.prev.store(0, std::memory_order_release);
  // Before the key gets its place: who iterates comes to it by that at once, and must not see it.
  record.version.store(version_, std::memory_order_release);
  key.head.store(record_link.raw, std::memory_order_release);
  key.retained_next.store(0, std::memory_order_release);
  const std::uint32_t spare = linker_.usable_spare(Link(operation.getSpareChunk()));
  if (!tables_.append_place(node_unit, key_link, record, spare)) return Applied::kBad;
  if (!linker_.link_record(record_link, key_link, version_)) return Applied::kBad;
  tables_.cells.link(key_link.unit());
  tables_.index.insert(key_link);
  change_keys(node_unit, 1);
  note_write(key_link);
  return Applied::kDone;
}

Committer::Applied Committer::remove(std::uint32_t node_unit, std::uint32_t key_unit,
                                     std::uint64_t* winner) {
  if (changed_since(key_unit, snapshot_, winner)) return Applied::kConflict;
  const Link head(tables_.key(key_unit).head.load(std::memory_order_relaxed));
  if (!head) return Applied::kConflict;
  VersionRecord& record = tables_.record(head.unit());
  if (record.died_at.load(std::memory_order_relaxed) != 0) return Applied::kConflict;
  tables_.journal.set(record.died_at, version_);
  superseded(record);
  change_keys(node_unit, -1);
  tables_.retain(key_unit);
  note_write(Link(tables_.key(key_unit).cell.generation.load(std::memory_order_relaxed), key_unit));
  return Applied::kDone;
}

}  // namespace theus::shm
