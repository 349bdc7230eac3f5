#include "worker/message.h"

#include <bit>

namespace theus::worker {

using shm::Link;
namespace wire = shm::wire;

namespace {

void write_checks(const std::vector<PlannedCheck>& from, capnp::List<wire::Check>::Builder checks) {
  for (unsigned i = 0; i < checks.size(); ++i) {
    auto check = checks[i];
    check.setSubject(from[i].link);
    check.setSeen(from[i].seen);
    check.setKind(from[i].kind);
  }
}

void write_absences(const std::vector<PlannedAbsence>& from,
                    capnp::List<wire::Absence>::Builder absences) {
  for (unsigned i = 0; i < absences.size(); ++i) {
    const Entry& entry = *from[i].entry;
    auto absence = absences[i];
    absence.setNode(entry.mapping->node);
    absence.setKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(entry.key.data),
                                std::size_t{entry.key.size}));
    absence.setCompared(entry.key.compared);
  }
}

}  // namespace

std::uint64_t message_words(const Plan& plan) {
  return 64 + (plan.checks.size() + plan.validated.size()) * 3 +
         (plan.absences.size() + plan.validated_absences.size()) * 4 + plan.absence_words +
         plan.operations.size() * 9 + plan.deletes.size();
}

void write_message(const Transaction::State& s, const Plan& plan, Link journal_region,
                   wire::Delta::Builder delta) {
  delta.setSnapshot(s.version);
  delta.setJournalRegion(journal_region.raw);
  // Null where there is nothing, so that the arbiter passes it by.
  if (!plan.checks.empty()) {
    write_checks(plan.checks, delta.initChecks(static_cast<unsigned>(plan.checks.size())));
  }
  if (!plan.absences.empty()) {
    write_absences(plan.absences, delta.initAbsences(static_cast<unsigned>(plan.absences.size())));
  }
  delta.setValidatedAt(plan.validated_at);
  if (!plan.validated.empty()) {
    write_checks(plan.validated, delta.initValidated(static_cast<unsigned>(plan.validated.size())));
  }
  if (const auto count = static_cast<unsigned>(plan.validated_absences.size()); count != 0) {
    write_absences(plan.validated_absences, delta.initValidatedAbsences(count));
    auto sorts = delta.initAbsenceSorts(count);
    for (unsigned i = 0; i < count; ++i) {
      sorts.set(i, plan.validated_absences[i].sort);
    }
  }
  if (!plan.deletes.empty()) {
    auto deletes = delta.initDeletes(static_cast<unsigned>(plan.deletes.size()));
    for (unsigned i = 0; i < deletes.size(); ++i) deletes.set(i, plan.deletes[i]->key_link);
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
    operation.setBasis(from.entry->basis);
    if (from.folds) {
      const shm::Number& operand = from.entry->operand;
      // shm::Fold and the message's count alike.
      operation.setFold(static_cast<wire::Operation::Fold>(from.entry->fold));
      operation.setOperandIsReal(operand.is_real);
      operation.setOperand(operand.is_real ? std::bit_cast<std::uint64_t>(operand.real)
                                           : std::bit_cast<std::uint64_t>(operand.integer));
    }
  }
}

}  // namespace theus::worker
