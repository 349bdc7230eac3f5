#include "shm/journal.h"

#include <algorithm>

namespace theus::shm {

StepJournal::StepJournal(const Space& space) : space_(space) {
  if (space.access() != Access::kObserver) {
    journal_ = &space.writable().journal;
    entries_ = space.writable().journal_entries;
    capacity_ = kJournalEntries;
  }
}

JournalEntry* StepJournal::entries_at(std::uint64_t region_offset, std::uint64_t* capacity) const {
  const std::uint64_t entries = journal_->region_entries.load(std::memory_order_acquire);
  const bool inside = region_offset != 0 && region_offset % 8 == 0 &&
                      space_.at(region_offset, 0) != nullptr &&
                      entries <= (space_.capacity_bytes() - region_offset) / sizeof(JournalEntry);
  if (!inside) {
    *capacity = kJournalEntries;
    return space_.writable().journal_entries;
  }
  *capacity = entries;
  return reinterpret_cast<JournalEntry*>(space_.writable_base() + region_offset);
}

void StepJournal::begin(std::uint64_t version, std::uint64_t region_offset,
                        std::uint64_t region_entries) {
  // The count is 0 before the version and the region change: a death between finds no entries.
  journal_->count.store(0, std::memory_order_release);
  journal_->region_offset.store(region_offset, std::memory_order_release);
  journal_->region_entries.store(region_entries, std::memory_order_release);
  journal_->version.store(version, std::memory_order_release);
  entries_ = entries_at(region_offset, &capacity_);
  count_ = 0;
  full_ = false;
  often_.fill(nullptr);
}

void StepJournal::note(std::uint64_t place, std::uint64_t old_value) {
  JournalEntry& entry = entries_[count_];
  entry.place.store(place, std::memory_order_relaxed);
  entry.old_value.store(old_value, std::memory_order_relaxed);
  journal_->count.store(++count_, std::memory_order_release);
}

void StepJournal::set(Word& word, std::uint64_t value) {
  if (count_ >= capacity_) full_ = true;
  if (full_) return;
  const auto place = reinterpret_cast<std::byte*>(&word) - space_.writable_base();
  note(static_cast<std::uint64_t>(place), word.load(std::memory_order_relaxed));
  word.store(value, std::memory_order_release);
}

void StepJournal::set(HalfWord& word, std::uint32_t value) {
  if (count_ >= capacity_) full_ = true;
  if (full_) return;
  const auto place = reinterpret_cast<std::byte*>(&word) - space_.writable_base();
  note(static_cast<std::uint64_t>(place) | 1, word.load(std::memory_order_relaxed));
  word.store(value, std::memory_order_release);
}

void StepJournal::set_often(Word& word, std::uint64_t value) {
  if (std::find(often_.begin(), often_.end(), &word) == often_.end()) {
    set(word, value);
    often_[often_next_++ % often_.size()] = &word;
  } else if (!full_) {
    // Its entry is in the journal: a death right after this is undone from there.
    word.store(value, std::memory_order_release);
  }
}

void StepJournal::end() {
  journal_->count.store(0, std::memory_order_release);
  count_ = 0;
}

void StepJournal::restore(std::uint64_t count) {
  for (std::uint64_t i = count; i-- > 0;) {
    const std::uint64_t place = entries_[i].place.load(std::memory_order_acquire);
    const std::uint64_t old_value = entries_[i].old_value.load(std::memory_order_acquire);
    const std::uint64_t offset = place & ~std::uint64_t{3};
    if (space_.at(offset, 8) == nullptr) continue;
    std::byte* target = space_.writable_base() + offset;
    if ((place & 1) != 0) {
      reinterpret_cast<HalfWord*>(target)->store(static_cast<std::uint32_t>(old_value),
                                                 std::memory_order_release);
    } else {
      reinterpret_cast<Word*>(target)->store(old_value, std::memory_order_release);
    }
  }
}

// Readers of words that are changed in place (a node's count) look at the epoch before and after,
// and want it even and the same: otherwise a value that they saw may be one that never came to be.
// Release: whoever sees a restored word sees the odd number; whoever sees the even one after it,
// every restored word. Dead in between, it stays odd until the next repair.
void StepJournal::take_back(std::uint64_t count) {
  HalfWord& epoch = space_.writable().undo_epoch;
  const std::uint32_t odd = epoch.load(std::memory_order_relaxed) | 1;
  epoch.store(odd, std::memory_order_release);
  restore(count);
  epoch.store(odd + 1, std::memory_order_release);
}

void StepJournal::undo() {
  full_ = false;
  if (count_ != 0) take_back(count_);
  end();
}

void StepJournal::repair() {
  const std::uint64_t version = journal_->version.load(std::memory_order_acquire);
  std::uint64_t count = journal_->count.load(std::memory_order_acquire);
  const std::uint64_t clock = space_.header().clock.load(std::memory_order_acquire);
  entries_ = entries_at(journal_->region_offset.load(std::memory_order_acquire), &capacity_);
  if (count > capacity_) count = capacity_;
  if (count > 0 && version > clock) take_back(count);
  end();
  full_ = false;
}

}  // namespace theus::shm
