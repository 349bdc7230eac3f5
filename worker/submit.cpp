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
#include <capnp/message.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "shm/delta.capnp.h"
#include "shm/futex.h"
#include "worker/cell_writer.h"
#include "worker/connection.h"
#include "worker/transaction_state.h"

namespace theus::worker {

using shm::Link;
using shm::Outcome;
namespace wire = shm::wire;

namespace {

constexpr std::uint32_t kDeltasPerHold = 64;
constexpr int kSpins = 100;
constexpr std::uint64_t kSleepNs = 10'000'000;
constexpr int kSleepsBeforeReport = 3;
constexpr int kSleepsMax = 3000;
constexpr std::uint64_t kJournalPerOperation = 48;
constexpr std::uint64_t kJournalPerKey = 16;
constexpr int kJournalGrowths = 4;
constexpr std::uint64_t kPrelinkFrom = 1000;  // new keys

}  // namespace

struct PlannedOperation {
  const Entry* entry;
  wire::Operation::Kind kind;
  Link record, new_key, spare;
};

// What a check, an absence or an operation of the message speaks of, to name a conflict.
struct Subject {
  const Entry* entry = nullptr;
  const Mapping* mapping = nullptr;
};

struct KeyCheck {
  std::uint64_t link, seen;
  wire::Check::Kind kind;
};

struct Plan {
  std::vector<Subject> subjects;
  std::vector<KeyCheck> checks;
  std::vector<const Entry*> absences;
  std::vector<PlannedOperation> operations;
  std::uint64_t absence_words = 0;
  std::uint64_t keys_new = 0;

  void clear() {
    subjects.clear();
    checks.clear();
    absences.clear();
    operations.clear();
    absence_words = keys_new = 0;
  }
};

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

void plan_checks(const Transaction::State& s, Plan& plan) {
  const bool serializable = s.isolation == Isolation::kSerializable;
  // Bindings first, at both isolation levels: a replaced ancestor explains every other conflict.
  for (const Mapping* mapping : s.mappings) {
    const Entry* binding = mapping->bound_at;
    if (mapping->node == 0 || binding == nullptr || !binding->present_in_snapshot) continue;
    plan.checks.push_back({binding->key_link, binding->seen_version, wire::Check::Kind::KEY});
    plan.subjects.push_back({binding, nullptr});
  }
  if (!serializable) return;
  for (const Entry* entry : s.entries) {
    if (!entry->present_in_snapshot || entry->mapping->node == 0) continue;
    // An operation on the key checks that it is unchanged anyway.
    if (submits(s, *entry)) continue;
    if (entry->presence_read) {
      plan.checks.push_back(
          {entry->key_link, entry->passed ? entry->place : 0, wire::Check::Kind::PRESENT});
      plan.subjects.push_back({entry, nullptr});
    }
    if (entry->read) {
      plan.checks.push_back({entry->key_link, entry->seen_version, wire::Check::Kind::KEY});
      plan.subjects.push_back({entry, nullptr});
    }
  }
  for (const Mapping* mapping : s.mappings) {
    if (mapping->node == 0) continue;
    if (mapping->read_structure) {
      plan.checks.push_back({mapping->node, 0, wire::Check::Kind::STRUCTURE});
    } else if (mapping->read_emptiness) {
      plan.checks.push_back({mapping->node, mapping->seen_empty, wire::Check::Kind::EMPTINESS});
    } else {
      continue;
    }
    plan.subjects.push_back({nullptr, mapping});
  }
  for (const Entry* entry : s.entries) {
    if (entry->present_in_snapshot || entry->mapping->node == 0) continue;
    // Written and taken back again: the key still had to be absent for that.
    if (!(entry->read || entry->presence_read || entry->written) || submits(s, *entry)) continue;
    plan.absences.push_back(entry);
    plan.absence_words += 4 + entry->key.size / 8;
    plan.subjects.push_back({entry, nullptr});
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
    PlannedOperation operation{entry, wire::Operation::Kind::DELETE, {}, {}, {}};
    if (entry->value.kind != Value::Kind::kAbsent) {
      operation.record = writer.record(*entry);
      operation.kind =
          entry->present_in_snapshot ? wire::Operation::Kind::PUT : wire::Operation::Kind::INSERT;
      if (!entry->present_in_snapshot) {
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
    }
    plan.operations.push_back(operation);
    plan.subjects.push_back({entry, nullptr});
  }
  plan.keys_new += writer.keys_below();
}

// Where the message goes: the desk, or a leased run when it is too long for that.
struct Place {
  Link run;  // null: the desk
  kj::ArrayPtr<capnp::word> words;
};

Place place_for(Transaction::State& s, std::uint64_t words) {
  Place place;
  if (words <= shm::kSubmissionBytes / sizeof(capnp::word)) {
    place.words = kj::arrayPtr(reinterpret_cast<capnp::word*>(s.in.desk->submission),
                               static_cast<std::size_t>(words));
    return place;
  }
  place.run = s.in.stock.take_run(shm::kAlignedPayload + words * sizeof(capnp::word));
  s.held.push_back({place.run, shm::kRunClass});
  std::byte* begin = s.in.space.writable_base() + place.run.offset() + shm::kAlignedPayload;
  std::memset(begin, 0, words * sizeof(capnp::word));
  place.words =
      kj::arrayPtr(reinterpret_cast<capnp::word*>(begin), static_cast<std::size_t>(words));
  return place;
}

void write_message(const Transaction::State& s, const Plan& plan, std::uint64_t sequence,
                   Link journal_region, wire::Delta::Builder delta) {
  delta.setSequence(sequence);
  delta.setSnapshot(s.version);
  delta.setJournalRegion(journal_region.raw);
  if (!plan.checks.empty()) {
    auto checks = delta.initChecks(static_cast<unsigned>(plan.checks.size()));
    for (unsigned i = 0; i < checks.size(); ++i) {
      auto check = checks[i];
      check.setSubject(plan.checks[i].link);
      check.setSeen(plan.checks[i].seen);
      check.setKind(plan.checks[i].kind);
    }
  }
  if (!plan.absences.empty()) {
    auto absences = delta.initAbsences(static_cast<unsigned>(plan.absences.size()));
    for (unsigned i = 0; i < absences.size(); ++i) {
      const Entry& entry = *plan.absences[i];
      auto absence = absences[i];
      absence.setNode(entry.mapping->node);
      absence.setKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(entry.key.data),
                                  std::size_t{entry.key.size}));
      absence.setCompared(entry.key.compared);
    }
  }
  auto operations = delta.initOperations(static_cast<unsigned>(plan.operations.size()));
  for (unsigned i = 0; i < operations.size(); ++i) {
    const PlannedOperation& from = plan.operations[i];
    auto operation = operations[i];
    operation.setKind(from.kind);
    operation.setNode(from.entry->mapping->node);
    operation.setKey(from.entry->present_in_snapshot ? from.entry->key_link : 0);
    operation.setRecord(from.record.raw);
    operation.setNewKey(from.new_key.raw);
    operation.setSpareChunk(from.spare.raw);
    operation.setMoved(from.entry->moved);
  }
}

// A builder over memory that it zeroes when it goes, unless it is abandoned.
struct Message {
  explicit Message(kj::ArrayPtr<capnp::word> words)
      : builder(words, capnp::AllocationStrategy::FIXED_SIZE) {}
  ~Message() {
    if (!abandoned) builder.~MallocMessageBuilder();
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  union {
    capnp::MallocMessageBuilder builder;
  };
  bool abandoned = false;
};

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
    if (!in.arbiter.anyone_waiting() || in.arbiter.turn_elsewhere()) break;
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

CommitResult interpret(const Transaction::State& s, const Plan& plan, Outcome outcome) {
  const shm::SlotRecord& record = *s.in.slot_record;
  const std::uint64_t version = record.answer_version.load(std::memory_order_relaxed);
  shm::Counters& counters = s.in.desk->counters;
  CommitResult result;
  if (outcome == Outcome::kCommitted) {
    bump(counters.commits);
    result.version = version;
    return result;
  }
  if (outcome == Outcome::kConflict) {
    bump(counters.conflicts);
    result.status = CommitResult::Status::kConflict;
    result.winner_version = version;
    const std::uint32_t index = record.answer_index.load(std::memory_order_relaxed);
    if (index < plan.subjects.size()) {
      result.conflict = plan.subjects[index].entry;
      result.conflict_mapping = plan.subjects[index].mapping;
    }
    const shm::Header& header = s.in.space.header();
    const std::uint64_t clock = header.clock.load(std::memory_order_acquire);
    if (version != 0 && clock - version < shm::kCommitRing) {
      result.winner_pid =
          header.winner_pid[version % shm::kCommitRing].load(std::memory_order_relaxed);
    }
    return result;
  }
  if (outcome == Outcome::kPoison) {
    throw Error(
        "two processes died while they worked on this commit; it was not done. This is a "
        "defect: please report it with the transaction that caused it");
  }
  if (outcome == Outcome::kDiscarded) {
    throw CoordinatorLost(
        "the coordinator has given this process up for dead; nothing was "
        "written: attach again");
  }
  throw Error(
      "the arbiter found the delta malformed; nothing was written. This is a defect: "
      "please report it");
}

}  // namespace

CommitResult submit_transaction(Transaction::State& s) {
  Session::Internals& in = s.in;
  Plan& plan = s.plan.get();
  plan.clear();
  plan_checks(s, plan);
  s.prelinked = false;
  plan_operations(s, plan);
  if (plan.operations.empty()) {
    // Everything written has been taken back again: nothing to publish.
    CommitResult result;
    result.status = CommitResult::Status::kReadOnly;
    result.version = s.version;
    return result;
  }
  if (in.arbiter.index_wants_segment(plan.keys_new) || plan.keys_new > 1024) {
    in.stock.grow_index(plan.keys_new);
  }

  const std::uint64_t words = 64 + plan.checks.size() * 3 + plan.absences.size() * 3 +
                              plan.absence_words + plan.operations.size() * 7;
  std::uint64_t journal_entries =
      64 + plan.operations.size() * kJournalPerOperation + plan.keys_new * kJournalPerKey;
  for (int growth = 0;; ++growth) {
    Link journal;
    if (journal_entries > shm::kJournalEntries) {
      try {
        journal =
            in.stock.take_run(shm::kAlignedPayload + journal_entries * sizeof(shm::JournalEntry));
        s.held.push_back({journal, shm::kRunClass});
      } catch (const CapacityError&) {
        // The estimate is generous: a full state can still be emptied in large transactions.
        if (growth > 0) throw;
      }
    }
    const Place place = place_for(s, words);
    // The builder wants zeroed memory and leaves it zeroed when it goes: it stays until the answer.
    Message message(place.words);
    write_message(s, plan, in.sequence + 1, journal, message.builder.initRoot<wire::Delta>());
    const auto segments = message.builder.getSegmentsForOutput();
    if (segments.size() != 1) throw Error("a delta grew beyond its room; nothing was written");
    in.desk->submission_link.store(place.run.raw, std::memory_order_release);
    in.desk->submission_words.store(segments[0].size(), std::memory_order_release);
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
    if (outcome != Outcome::kJournalFull || growth == kJournalGrowths) {
      return interpret(s, plan, outcome);
    }
    journal_entries = std::max<std::uint64_t>(journal_entries, shm::kJournalEntries) * 4;
  }
}

}  // namespace theus::worker
