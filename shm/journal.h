// The undo journal: what makes a change of shared structures all or nothing when its maker dies.
//
// Who writes: the lock owner. Who reads: the next lock owner, after EOWNERDEAD. Order, for each
// word: entry (place, old value), then the count (release), then the word (release). So whatever
// part of a step has reached memory, the words it changed are among the first `count` entries.
// A step names its version. Repair restores in reverse if that version is above the clock: the
// clock's store is what makes a commit, and no other mark is needed. Steps that are no commit
// (kNoVersion) end by setting the count to 0. Restoring is idempotent: the repairer may die too.
// Generations are never journalled (see link.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "shm/space.h"

namespace theus::shm {

class StepJournal {
 public:
  explicit StepJournal(const Space& space);

  // Starts a step; the previous one must be over. `region`: extra room, 0 for the header's own.
  void begin(std::uint64_t version, std::uint64_t region_offset = 0,
             std::uint64_t region_entries = 0);
  // Journalled stores. After the journal is full they do nothing and full() is true: the step must
  // then be undone.
  void set(Word& word, std::uint64_t value);
  void set(HalfWord& word, std::uint32_t value);
  // The same for a word that one operation after another of a step changes: undo wants its first
  // old value only, so it costs one entry, as long as few others come in between.
  void set_often(Word& word, std::uint64_t value);
  bool full() const { return full_; }
  // Ends a step that is no commit, or one whose clock store has been done.
  void end();
  // Restores what the step has changed, in reverse, and ends it.
  void undo();
  // For repair: undoes the dead owner's step if it has not been committed.
  void repair();

 private:
  void note(std::uint64_t place, std::uint64_t old_value);
  void restore(std::uint64_t count);
  void take_back(std::uint64_t count);
  JournalEntry* entries_at(std::uint64_t region_offset, std::uint64_t* capacity) const;

  const Space& space_;
  Journal* journal_ = nullptr;
  JournalEntry* entries_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::uint64_t count_ = 0;
  bool full_ = false;
  // Words that have an entry already, the last few given to set_often in this step.
  std::array<const Word*, 8> often_{};
  std::size_t often_next_ = 0;
};

}  // namespace theus::shm
