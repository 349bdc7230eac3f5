// Building a transaction's delta in the desk and having it decided.
//
// Order: cells filled - message - submission_link, submission_words - request (seq_cst). From the
// request on, any lock owner may decide it; this process touches neither message nor cells before
// the answer, whatever signal or exception is pending. Normally this process takes the lock itself
// and decides at once, along with whoever else waits (flat combining: Hendler, Incze, Shavit,
// Tzafrir, "Flat combining and the synchronization-parallelism tradeoff", 2010).
//
// A death before the request leaves held cells, which eviction finds as not linked; after it, the
// delta may be decided, or is discarded by eviction.
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "shm/futex.h"
#include "worker/cell_writer.h"
#include "worker/connection.h"
#include "worker/message.h"
#include "worker/plan.h"
#include "worker/validate.h"

namespace theus::worker {

using shm::Link;
using shm::Outcome;
namespace wire = shm::wire;

namespace {

constexpr int kSpins = 100;
constexpr std::uint64_t kSleepNs = 10'000'000;
constexpr int kSleepsBeforeReport = 3;
constexpr int kSleepsMax = 3000;
constexpr std::uint64_t kJournalPerOperation = 48;
// Exact: a full state has no room to be generous. died_at, the key's shape, its place in the queue.
constexpr std::uint64_t kJournalPerDelete = 3;
constexpr std::uint64_t kJournalPerMapping = 3;  // and of this, what many deletes share
constexpr std::uint64_t kJournalPerKey = 16;
constexpr int kJournalGrowths = 4;
constexpr int kReserveTries = 500;  // of 10 ms: others give back what they have with their answer
constexpr std::uint64_t kPrelinkFrom = 1000;  // new keys
// Submissions of one validated read set, each from where the one before had got to. More: others
// commit faster than the arbiter looks through what they wrote.
constexpr int kCatchUpsMax = 64;
// Rounds of validation: see prepare_read_set.
constexpr int kRoundsWithoutTurn = 2;
constexpr int kRoundsMax = 6;
constexpr std::uint64_t kValidationTurnNs = 200'000'000;  // a million keys take a quarter of it

}  // namespace

PlanHolder::PlanHolder() : plan_(std::make_unique<Plan>()) {}
PlanHolder::~PlanHolder() = default;

namespace {

void bump(shm::Word& counter, std::uint64_t by = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

bool submits(const Transaction::State& s, const Entry& entry) {
  return entry.written && entry.mapping->node != 0 && s.attached(entry.mapping) &&
         (entry.value.kind != Value::Kind::kAbsent || entry.present_in_snapshot);
}

// Its number is folded at commit. Not after a read: then what was shown has to be true.
bool folds(const Entry& entry) { return entry.fold != shm::Fold::kNone && !entry.read; }

// It may be written though others have written it since the snapshot.
bool follows(const Entry& entry) { return folds(entry) || entry.basis != 0; }

void plan_checks(const Transaction::State& s, Plan& plan) {
  const bool serializable = s.isolation == Isolation::kSerializable;
  // Bindings first, at both isolation levels: a replaced ancestor explains every other conflict.
  for (const Mapping* mapping : s.mappings) {
    const Entry* binding = mapping->bound_at;
    if (mapping->node == 0 || binding == nullptr || !binding->present_in_snapshot) continue;
    plan.checks.push_back(
        {binding->key_link, binding->seen_version, wire::Check::Kind::KEY, binding, nullptr});
  }
  if (!serializable) return;
  for (const Entry* entry : s.entries) {
    if (!entry->present_in_snapshot || entry->mapping->node == 0) continue;
    // An operation on the key checks that it is unchanged anyway, unless it follows what is newest.
    const bool submitted = submits(s, *entry);
    if (submitted && !follows(*entry)) continue;
    if (entry->read && !submitted) {
      plan.checks.push_back(
          {entry->key_link, entry->seen_version, wire::Check::Kind::KEY, entry, nullptr});
    } else if (entry->presence_read && !entry->mapping->read_structure) {
      plan.checks.push_back({entry->key_link, entry->passed ? entry->place : 0,
                             wire::Check::Kind::PRESENT, entry, nullptr});
    }
  }
  for (const Mapping* mapping : s.mappings) {
    if (mapping->node == 0) continue;
    if (mapping->read_structure) {
      plan.checks.push_back({mapping->node, 0, wire::Check::Kind::STRUCTURE, nullptr, mapping});
    } else if (mapping->last_place != 0) {
      // There is a last one, so it is not empty either.
      plan.checks.push_back(
          {mapping->node, mapping->last_place, wire::Check::Kind::LAST, nullptr, mapping});
    } else if (mapping->read_emptiness) {
      plan.checks.push_back(
          {mapping->node, mapping->seen_empty, wire::Check::Kind::EMPTINESS, nullptr, mapping});
    }
  }
  for (const Entry* entry : s.entries) {
    if (entry->present_in_snapshot || entry->mapping->node == 0) continue;
    // Nothing came, so this one did not.
    if (entry->mapping->read_structure) continue;
    // Written and taken back again: the key still had to be absent for that.
    if (!(entry->read || entry->presence_read || entry->written)) continue;
    if (submits(s, *entry) && !(follows(*entry) && entry->presence_read)) continue;
    plan.absences.push_back({entry, 0});
    plan.absence_words += 4 + entry->key.size / 8;
  }
}

// Keys in mappings that are new in this transaction.
std::uint64_t count_new_keys(const Transaction::State& s) {
  std::uint64_t keys = 0;
  for (const Mapping* mapping : s.mappings) {
    if (mapping->node == 0 && mapping->size_change > 0) {
      keys += static_cast<std::uint64_t>(mapping->size_change);
    }
  }
  return keys;
}

// Nothing but deletes, and mappings replaced by empty ones: such a delta may use the reserve.
bool only_frees(const Transaction::State& s) {
  return std::all_of(s.written.begin(), s.written.end(), [&s](const Entry* entry) {
    const bool empties = entry->value.kind == Value::Kind::kMapping && entry->child != nullptr &&
                         entry->child->node == 0 && entry->child->first_new == nullptr &&
                         entry->present_in_snapshot && !entry->moved;
    return entry->value.kind == Value::Kind::kAbsent || empties || !submits(s, *entry);
  });
}

void plan_operations(Transaction::State& s, Plan& plan) {
  const std::uint64_t new_keys = count_new_keys(s);
  if (new_keys > kPrelinkFrom || s.in.arbiter.index_wants_segment(new_keys)) {
    s.in.stock.grow_index(new_keys);
  }
  if (s.reordered) {
    std::sort(s.written.begin(), s.written.end(),
              [](const Entry* a, const Entry* b) { return a->order < b->order; });
  }
  CellWriter writer(s, new_keys > kPrelinkFrom);
  for (Mapping* mapping : s.mappings) mapping->spares = 0;
  constexpr std::uint32_t kPlaces = shm::chunk_capacity(shm::kChunk256);
  for (const Entry* entry : s.written) {
    if (!submits(s, *entry)) continue;
    if (entry->value.kind == Value::Kind::kAbsent) {
      plan.deletes.push_back(entry);
      continue;
    }
    PlannedOperation operation{
        entry, wire::Operation::Kind::PUT, writer.record(*entry), {}, {}, folds(*entry)};
    if (!entry->present_in_snapshot) {
      operation.kind = wire::Operation::Kind::INSERT;
      operation.new_key = writer.key(*entry, entry->mapping->node);
      ++plan.keys_new;
    }
    if (!entry->present_in_snapshot || entry->moved) {
      // The n-th new place of a mapping names spare chunk n / places: by the time the tail's
      // places and the earlier spares are used up, this one is not.
      Mapping* mapping = entry->mapping;
      if (mapping->spares++ % kPlaces == 0) {
        mapping->spare = writer.chunk(shm::kChunk256).raw;
      }
      operation.spare = Link(mapping->spare);
    }
    plan.operations.push_back(operation);
  }
  // Those of one mapping together: what they share is then journalled once (shm/journal.h).
  const auto by_mapping = [](const Entry* a, const Entry* b) {
    return std::less<>()(a->mapping, b->mapping);
  };
  if (!std::is_sorted(plan.deletes.begin(), plan.deletes.end(), by_mapping)) {
    std::stable_sort(plan.deletes.begin(), plan.deletes.end(), by_mapping);
  }
  plan.keys_new += writer.keys_below();
}

// A run of extents for as long as a submission takes: its message or its journal.
class LeasedRun {
 public:
  explicit LeasedRun(Transaction::State& s) : s_(s) {}
  ~LeasedRun() { give_back(); }
  LeasedRun(const LeasedRun&) = delete;
  LeasedRun& operator=(const LeasedRun&) = delete;

  void take(std::uint64_t bytes) {
    give_back();
    run_ = s_.in.stock.take_run(shm::kAlignedPayload + bytes, s_.use);
  }
  // Not when somebody may still work on it, or it is another's by now: then eviction finds it.
  void give_back() noexcept {
    if (!run_ || s_.in.lost) return;
    try {
      s_.in.stock.give_back(run_, shm::kRunClass);
    } catch (const CoordinatorLost&) {
      s_.in.lost = true;
    }
    run_ = Link();
  }
  Link link() const { return run_; }
  std::byte* data() const {
    return s_.in.space.writable_base() + run_.offset() + shm::kAlignedPayload;
  }

 private:
  Transaction::State& s_;
  Link run_;
};

// Where a delta goes: the message into the desk, or into a run when it is too long for that; the
// journal into the header's, or into a run.
struct Room {
  explicit Room(Transaction::State& s) : message(s), journal(s) {}

  LeasedRun message, journal;
  kj::ArrayPtr<capnp::word> words;
};

void take_room(Transaction::State& s, std::uint64_t words, std::uint64_t journal_entries,
               bool journal_needed, Room& room) {
  std::byte* begin = s.in.desk->submission;
  if (words > shm::kSubmissionBytes / sizeof(capnp::word)) {
    room.message.take(words * sizeof(capnp::word));
    begin = room.message.data();
    std::memset(begin, 0, words * sizeof(capnp::word));
  }
  room.words = kj::arrayPtr(reinterpret_cast<capnp::word*>(begin), static_cast<std::size_t>(words));
  if (journal_entries <= shm::kJournalEntries) return;
  try {
    room.journal.take(journal_entries * sizeof(shm::JournalEntry));
  } catch (const ReserveLent&) {
    throw;
  } catch (const CapacityError&) {
    // The estimate is generous, and the header's own journal may do.
    if (journal_needed) throw;
  }
}

// The same, waiting for what another process has of the reserve: both runs or none, so that no two
// wait for each other.
void await_room(Transaction::State& s, std::uint64_t words, std::uint64_t journal_entries,
                bool journal_needed, Room& room) {
  for (int tries = 0;; ++tries) {
    const std::uint32_t returns = s.in.arbiter.reserve_returns();
    try {
      take_room(s, words, journal_entries, journal_needed, room);
      return;
    } catch (const ReserveLent&) {
      if (tries >= kReserveTries) throw;
    }
    room.message.give_back();
    Waiting waits(s.in.wait_hook);
    s.in.arbiter.wait_for_reserve(returns, kSleepNs);
    waits.end();
  }
}

bool answered(const Session::Internals& in) {
  return in.slot_record->answer.load(std::memory_order_seq_cst) >> 8 == in.sequence;
}

// Decides what waits, ourselves first. True if the lock was to be had.
bool combine(Session::Internals& in) {
  bool had_lock = false;
  // Again when somebody came while we held the lock and could not get it: he sleeps (handoff in
  // docs/architecture.md). Bounded: whoever is left tries the lock within 10 ms.
  for (int round = 0; round < 16; ++round) {
    if (!in.arbiter.try_lock()) return had_lock;
    had_lock = true;
    in.arbiter.drain(kDeltasPerHold);
    in.arbiter.reclaim_sometimes();
    in.arbiter.unlock();
    if (!in.arbiter.anyone_waiting() || in.arbiter.turn_lasts()) break;
  }
  return had_lock;
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void await_answer(const Transaction::State& s) {
  Session::Internals& in = s.in;
  combine(in);
  if (answered(in)) return;
  bump(in.desk->counters.lock_waits);
  shm::Word& waiting = in.space.writable().waiting[in.attachment.slot / 64];
  const std::uint64_t bit = 1ull << (in.attachment.slot % 64);
  for (int sleeps = 0; sleeps < kSleepsMax; ++sleeps) {
    waiting.fetch_or(bit, std::memory_order_seq_cst);
    for (int spin = 0; spin < kSpins; ++spin) {
      if (answered(in)) return;
      pause_briefly();
    }
    combine(in);
    if (answered(in)) return;
    const std::uint64_t before = in.slot_record->answer.load(std::memory_order_seq_cst);
    in.desk->sleeping.store(1, std::memory_order_seq_cst);
    if (before >> 8 != in.sequence) {
      const Waiting waits(in.wait_hook);
      shm::futex_wait(shm::low_half(in.slot_record->answer), static_cast<std::uint32_t>(before),
                      kSleepNs);
    }
    in.desk->sleeping.store(0, std::memory_order_relaxed);
    if (answered(in)) return;
    if (in.slot_record->state.load(std::memory_order_acquire) !=
        static_cast<std::uint32_t>(shm::SlotState::kAdmitted)) {
      throw CommitUnknown(
          "this process's slot was taken back by the coordinator while a commit "
          "was under way; read the state to see whether it happened");
    }
    if (sleeps >= kSleepsBeforeReport) {
      report_stuck(in.attachment, in.arbiter.holder().sequence);
    }
  }
  throw CommitUnknown("the arbitration lock of '" + in.attachment.name +
                      "' has been held for 30 s; whether this commit happens is not known: attach "
                      "again and read the state");
}

// What the arbiter's index of a conflict speaks of (shm/decision.h).
Refuted subject_of(const Plan& plan, std::size_t index) {
  const auto in = [&index](const auto& list) {
    if (index < list.size()) return true;
    index -= list.size();
    return false;
  };
  if (in(plan.checks)) return {plan.checks[index].entry, plan.checks[index].mapping};
  if (in(plan.absences)) return {plan.absences[index].entry};
  if (in(plan.validated)) return {plan.validated[index].entry, plan.validated[index].mapping};
  if (in(plan.validated_absences)) return {plan.validated_absences[index].entry};
  if (in(plan.operations)) return {plan.operations[index].entry, nullptr, 0, true};
  if (in(plan.deletes)) return {plan.deletes[index]};
  return {};
}

CommitResult conflict(const Transaction::State& s, const Refuted& what) {
  CommitResult result;
  result.status = CommitResult::Status::kConflict;
  result.conflict = what.entry;
  result.conflict_mapping = what.mapping;
  result.at_write = what.at_write;
  const std::uint64_t version = result.winner_version = what.winner_version;
  const shm::Header& header = s.in.space.header();
  const std::uint64_t clock = header.clock.load(std::memory_order_acquire);
  if (version != 0 && clock - version < shm::kCommitRing) {
    result.winner_pid =
        header.winner_pid[version % shm::kCommitRing].load(std::memory_order_relaxed);
  }
  return result;
}

CommitResult interpret(const Transaction::State& s, const Plan& plan, Outcome outcome) {
  const shm::SlotRecord& record = *s.in.slot_record;
  const std::uint64_t version = record.answer_version.load(std::memory_order_relaxed);
  if (outcome == Outcome::kCommitted) {
    bump(s.in.desk->counters.commits);
    CommitResult result;
    result.version = version;
    return result;
  }
  if (outcome == Outcome::kConflict) {
    Refuted what = subject_of(plan, record.answer_index.load(std::memory_order_relaxed));
    what.winner_version = version;
    return conflict(s, what);
  }
  if (outcome == Outcome::kPoison) {
    throw Error(
        "two processes died while they worked on this commit; it was not done. This is a "
        "defect: please report it with the transaction that caused it");
  }
  if (outcome == Outcome::kDiscarded) {
    s.in.lost = true;  // the desk may be another's by now
    throw CoordinatorLost(
        "the coordinator has given this process up for dead; nothing was "
        "written: attach again");
  }
  throw Error(
      "the arbiter found the delta malformed; nothing was written. This is a defect: "
      "please report it");
}

}  // namespace

// Hands the message in and waits for the answer; again and again from where the arbiter has got to,
// as long as it has only not seen enough of the ring.
Outcome hand_in(Transaction::State& s, Message& message, wire::Delta::Builder delta) {
  Session::Internals& in = s.in;
  for (int catch_up = 0;; ++catch_up) {
    delta.setSequence(in.sequence + 1);
    delta.setEndsTurn(in.turns.belong_to(s));
    if (in.before_request) in.before_request();
    ++in.sequence;
    in.desk->request.store(in.sequence, std::memory_order_seq_cst);
    try {
      await_answer(s);
    } catch (const CommitUnknown&) {
      // Somebody may be reading message and cells at this moment, and go on when he wakes up:
      // nothing of them may be touched again, not even by the builder's destructor.
      in.lost = true;
      message.abandoned = true;
      throw;
    }
    const auto outcome =
        static_cast<Outcome>(in.slot_record->answer.load(std::memory_order_acquire) & 0xFF);
    bump(in.desk->counters.combined,
         in.arbiter.combined() - in.desk->counters.combined.load(std::memory_order_relaxed));
    const std::uint64_t held_at = in.slot_record->answer_version.load(std::memory_order_relaxed);
    if (outcome != Outcome::kValidateAgain || held_at == 0 || catch_up == kCatchUpsMax) {
      return outcome;
    }
    delta.setValidatedAt(held_at);
  }
}

// Round by round: validated here; with the turn as well, so that nobody commits meanwhile; in the
// end unvalidated, which is always decided.
std::optional<Refuted> prepare_read_set(Transaction::State& s, Plan& plan, int round) {
  if (round > 0) {
    plan.clear_checks();
    plan_checks(s, plan);
  }
  if (plan.checks.size() + plan.absences.size() <= s.in.validate_above || round == kRoundsMax) {
    return std::nullopt;
  }
  if (round >= kRoundsWithoutTurn) {
    s.in.turns.claim_now(s, kValidationTurnNs);  // if it is somebody else's, this round is plain
  }
  Waiting waits(s.in.wait_hook);  // it may take milliseconds
  const auto refuted = validate(s, plan);
  waits.end();
  return refuted;
}

CommitResult submit_transaction(Transaction::State& s) {
  Session::Internals& in = s.in;
  Plan& plan = s.plan.get();
  plan.clear();
  plan_checks(s, plan);
  s.prelinked = false;
  s.use = only_frees(s) ? Use::kFreeing : Use::kAny;
  plan_operations(s, plan);
  if (plan.operations.empty() && plan.deletes.empty()) {
    // Everything written has been taken back again: nothing to publish.
    CommitResult result;
    result.status = CommitResult::Status::kReadOnly;
    result.version = s.version;
    return result;
  }
  if (in.arbiter.index_wants_segment(plan.keys_new) || plan.keys_new > 1024) {
    in.stock.grow_index(plan.keys_new);
  }

  std::uint64_t journal_entries =
      64 + plan.operations.size() * kJournalPerOperation + plan.keys_new * kJournalPerKey +
      plan.deletes.size() * kJournalPerDelete + s.mappings.size() * kJournalPerMapping;
  for (int growth = 0, round = 0;;) {
    if (const auto refuted = prepare_read_set(s, plan, round)) return conflict(s, *refuted);
    Room room(s);
    await_room(s, message_words(plan), journal_entries, /*journal_needed=*/growth > 0, room);
    // The builder wants zeroed memory and leaves it zeroed when it goes: it stays until the answer.
    Message message(room.words);
    auto delta = message.builder.initRoot<wire::Delta>();
    write_message(s, plan, room.journal.link(), delta);
    const auto segments = message.builder.getSegmentsForOutput();
    if (segments.size() != 1) throw Error("a delta grew beyond its room; nothing was written");
    in.desk->submission_link.store(room.message.link().raw, std::memory_order_release);
    in.desk->submission_words.store(segments[0].size(), std::memory_order_release);
    const Outcome outcome = hand_in(s, message, delta);
    if (outcome == Outcome::kValidateAgain && round < kRoundsMax) {
      ++round;
    } else if (outcome == Outcome::kJournalFull && growth < kJournalGrowths) {
      ++growth;
      journal_entries = std::max<std::uint64_t>(journal_entries, shm::kJournalEntries) * 4;
    } else {
      return interpret(s, plan, outcome);
    }
  }
}

}  // namespace theus::worker
