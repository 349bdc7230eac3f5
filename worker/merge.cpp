// Writes that give way to others' instead of conflicting with them: numbers that the arbiter folds
// onto the newest ones, and values that their writer merges with the newest and submits again.
//
// A merged value is made from a version, its basis, and the arbiter takes it as long as nobody has
// written the key since then. So of several who merge one key at least one gets on; whoever is late
// too often asks for the turn.
#include "worker/reader.h"
#include "worker/transaction_state.h"

namespace theus::worker {
namespace {

// Merges that lose against others: with the turn from some point on, then only if it ran out.
constexpr int kMergesWithoutTurn = 4;
constexpr int kMergesMax = 1000;  // so many may be waiting for their turn
constexpr int kTurnsMax = 4;      // merging takes longer than the turn
constexpr std::uint64_t kMergeTurnNs = 100'000'000;

}  // namespace

bool Transaction::fold(Entry* entry, shm::Fold how, shm::Number operand) {
  state_->require_writable(entry);
  const Value before = entry->value;
  const bool absent = before.kind == Value::Kind::kAbsent;
  if (!absent && before.kind != Value::Kind::kInt && before.kind != Value::Kind::kFloat) {
    return false;
  }
  const shm::Fold known = entry->fold;
  if (known != shm::Fold::kNone && known != how) return false;
  const auto now = before.kind == Value::Kind::kFloat ? shm::Number::of(before.real)
                                                      : shm::Number::of(before.integer);
  const auto result = absent ? operand : shm::fold(how, now, operand);
  // A sum of ints is exact, one of floats is not: operands of both kinds are added one by one.
  if (known == shm::Fold::kAdd && entry->operand.is_real != operand.is_real) return false;
  const auto all = known == how ? shm::fold(how, entry->operand, operand) : operand;
  if (!result || !all) return false;
  // What is this transaction's own already, or hangs on what it has read, is written as it is.
  const bool plain = entry->read || entry->moved || (entry->written && known == shm::Fold::kNone);
  state_->begin_write(entry);
  Value value;
  value.kind = result->is_real ? Value::Kind::kFloat : Value::Kind::kInt;
  if (result->is_real) {
    value.real = result->real;
  } else {
    value.integer = result->integer;
  }
  state_->finish_put(entry, value);
  entry->fold = plain ? shm::Fold::kNone : how;
  entry->operand = *all;
  return true;
}

Value Transaction::before(const Entry* entry) const {
  const State& s = *state_;
  s.require_open();
  if (!entry->present_in_snapshot) return {};
  return value_of(
      s.in.space,
      lookup(s.in.space, entry->mapping->node, entry->key, entry->hash, s.version).seen);
}

// Until it commits, meets a conflict that cannot be merged, or has tried often enough.
CommitResult Transaction::submit_merged(Merger& merger, CommitResult result) {
  State& s = *state_;
  int turns = 0;
  for (int merges = 0; result.at_write && merges < kMergesMax && turns < kTurnsMax; ++merges) {
    if (merges >= kMergesWithoutTurn && s.in.turns.claim_now(s, kMergeTurnNs)) ++turns;
    if (!merge(merger, result.conflict)) break;
    result = s.submit();
  }
  return result;
}

// Merges anew all that others have written since it was made; not after a part of it was linked in
// advance, which has been buried. False: `refused` cannot be merged.
bool Transaction::merge(Merger& merger, const Entry* refused) {
  State& s = *state_;
  if (s.had_prelinked) return false;
  Snapshot newest(s.session);
  bool merged = false;
  // By index: a merge may find further entries.
  for (std::size_t i = 0; i < s.written.size(); ++i) {
    Entry* entry = s.written[i];
    if (entry->mapping->node == 0 || !s.attached(entry->mapping)) continue;
    const Value value = newest.find(entry->mapping->node, entry->key);
    const std::uint64_t known = entry->basis != 0 ? entry->merged_record : entry->record_link;
    // A fold follows the newest by itself, as long as it can.
    if (entry != refused && (value.record == known || entry->fold != shm::Fold::kNone)) continue;
    if (!merger.merge(*this, entry, value)) {
      if (entry == refused) return false;
      continue;
    }
    merged = merged || entry == refused;
    entry->basis = newest.version();
    entry->merged_record = value.record;
  }
  return merged;
}

}  // namespace theus::worker
