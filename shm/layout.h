// Everything that lies in shared memory, in one place: who writes it, who reads it.
//
// Two segments (docs/architecture.md has the map):
//   data   header, slot table, rings, journal, index directory table, extent table, extents.
//          Written only by the owner of the arbitration lock, with two exceptions: cells that a
//          worker owns and has not yet submitted (its private stock), and `lock` itself.
//   desks  one desk per slot, written only by the worker that has the slot (and, before it has it
//          or when it is gone, under the lock): pins, request word, submission, counters.
//
// Every word that another process may read while it is written is a std::atomic, is read with
// acquire and written with release: no fences, so that ThreadSanitizer follows every edge. On
// x86-64 both are plain moves.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/link.h"

namespace theus::shm {

using Word = std::atomic<std::uint64_t>;
using HalfWord = std::atomic<std::uint32_t>;
static_assert(Word::is_always_lock_free && HalfWord::is_always_lock_free);
static_assert(sizeof(Word) == 8 && sizeof(HalfWord) == 4);

inline constexpr std::uint64_t kMagic = 0x31307375'65687401ull;
inline constexpr std::uint64_t kExtentBytes = 64 * 1024;
inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint32_t kMaxWorkers = 1024;
inline constexpr std::uint32_t kMaxSpares = 1024;  // slots that hold pins only (SlotState::kSpare)
inline constexpr std::uint32_t kMaxSlots = kMaxWorkers + kMaxSpares;
inline constexpr std::uint64_t kMinCapacityBytes = 16ull << 20;
inline constexpr std::uint64_t kMaxCapacityBytes = 64ull << 30;  // 2^32 units of 16 bytes
inline constexpr std::uint16_t kNoSlot = 0xFFFF;

// ---------------------------------------------------------------------------------- cells

// The first 8 bytes of every cell. `generation`: raised by whoever fills the cell, before the
// first field. `state`: kCellLinked while something reachable names the cell; kCellHeld while its
// owner prepares it for a delta (so that, after the answer, a cell that was not used is told from
// one that was linked and has been freed since); otherwise free: in the extent's free list, with
// the index of the next free cell, or in its owner's stock.
// Changed under the lock and journalled, held and free-in-stock by the owner; `generation` never
// is journalled.
struct CellHeader {
  HalfWord generation;
  HalfWord state;
};
inline constexpr std::uint32_t kCellLinked = 0x80000000u;
inline constexpr std::uint32_t kCellHeld = 0x40000000u;
inline constexpr std::uint32_t kNoCell = 0xFFFFu;  // end of an extent's free list

// One version of one leaf or binding. Filled by the worker that submits it; linked, dated and
// ended by the arbiter. 48 bytes (one value word) or 64 (three).
struct VersionRecord {
  CellHeader cell;
  Word version;    // the commit that made it; 0: as old as the node it lies in
  Word died_at;    // the commit that replaced or deleted it; 0: it is the newest and alive
  Word prev;       // Link of the record it replaced, or 0
  HalfWord chunk;  // unit of the order chunk that holds this incarnation's place
  HalfWord shape;  // place in that chunk << 16 | ValueKind << 8 | inline length in bytes
  Word value[1];
};
inline constexpr std::uint32_t kSmallRecordBytes = 48;
inline constexpr std::uint32_t kWideRecordBytes = 64;
inline constexpr std::uint32_t kSmallInlineBytes = 8;
inline constexpr std::uint32_t kWideInlineBytes = 24;
static_assert(sizeof(VersionRecord) == kSmallRecordBytes);

enum class ValueKind : std::uint8_t {
  kNone = 1,
  kFalse,
  kTrue,
  kInt,         // value[0]: two's complement
  kFloat,       // value[0]: IEEE bits
  kStr,         // inline UTF-8 of `inline length` bytes
  kBytes,       // inline
  kNode,        // value[0]: Link of a NodeRecord
  kBlock,       // value[0]: Link of a Block that holds an encoded leaf (codec: bindings/codec)
  kStrBlock,    // value[0]: Link of a Block of raw UTF-8
  kBytesBlock,  // value[0]: Link of a Block of raw bytes
};
inline constexpr std::uint8_t kLastValueKind = static_cast<std::uint8_t>(ValueKind::kBytesBlock);

// One key of one mapping node: the fixed point that versions hang from and that the index finds.
struct KeyRecord {
  CellHeader cell;
  Word sort;               // bit-reversed hash of (node, key), lowest bit set: place in the index
  Word node;               // Link of the NodeRecord it belongs to
  Word next;               // index list: Link of the next KeyRecord or marker, or 0
  Word head;               // Link of the newest VersionRecord
  HalfWord retained_next;  // unit of the next key in the retained queue (arbiter only)
  HalfWord shape;          // queued flag << 24 | compared bytes << 12 | bytes
  Word key[2];             // key bytes, zero-padded; 2, 10 or 122 words by cell class: use words()

  const Word* words() const { return key; }
};
static_assert(sizeof(KeyRecord) == 64);
inline constexpr std::uint32_t kMaxKeyBytes = 976;

// One mapping node. Its Link (generation and unit) is its id and is never reused.
struct NodeRecord {
  CellHeader cell;
  Word parent;             // Link of the KeyRecord it was bound to; 0: the root
  Word structure_version;  // newest commit that inserted or deleted an entry here
  Word below_version;      // newest commit that wrote anything at or below an entry of this node
  Word count;              // live entries at the newest version
  Word first_chunk;        // Link of the first order chunk
  HalfWord last_chunk;     // unit of the last order chunk, 0: none. Readers: last_chunk()
  HalfWord dead_next;      // unit of the next node in the dead queue or a nursery (arbiter only)
  Word unlinked;           // prelinking: Link of the first chunk that is not linked yet
};
static_assert(sizeof(NodeRecord) == 64);

// Order chunk: a run of places, in insertion order. A place is the Link of a KeyRecord or 0. The
// incarnation of a key that is visible to a snapshot is at the place its VersionRecord names.
struct OrderChunk {
  CellHeader cell;
  Word next;       // Link
  HalfWord prev;   // unit, 0: the first. Readers: chunk_before()
  HalfWord shape;  // capacity << 16 | used << 8 | live
  Word place[5];   // 5, 13 or 29 by cell class: use places()

  Word* places() { return place; }
  const Word* places() const { return place; }
};
static_assert(sizeof(OrderChunk) == 64);

// Bytes outside a record: small ones are cells, large ones fill a run of extents.
struct Block {
  CellHeader cell;
  Word shape;  // offset of the payload from the block's start << 56 | payload bytes
};
static_assert(sizeof(Block) == 16);
inline constexpr std::uint64_t kBlockHeaderBytes = sizeof(Block);  // payload of plain bytes
inline constexpr std::uint64_t kAlignedPayload = 64;               // payload that holds arrays

// ---------------------------------------------------------------------------------- extents

// One per 64 KiB of the extent area. `head` is non-zero exactly where a run of extents begins.
struct ExtentRecord {
  Word head;            // kind << 56 | class << 48 | owner slot << 32 | length in extents
  HalfWord free_list;   // index of the first free cell that its owner has not yet taken, kNoCell
  HalfWord listed;      // 1: stands in its owner's (or the orphans') list of extents to collect
  HalfWord list_next;   // extent index + 1 of the next in that list
  HalfWord list_prev;   // extent index + 1 of the one before it in that list, 0: it is the first
  HalfWord free_count;  // cells in the free list
  HalfWord reserved;
};
static_assert(sizeof(ExtentRecord) == 32);

enum class ExtentKind : std::uint8_t {
  kNotHead = 0,
  kFreeBacked,  // memory is there, maybe warm
  kFreeRaw,     // sparse: has to be allocated before use
  kGranting,    // taken by `owner`, who is allocating its memory
  kCells,       // cells of one class, filled by `owner`
  kRun,         // one large block, filled by `owner` until it is linked
  kDirectory,   // index directory segment
};

// Whether the janitor knows that there is more warm memory than is kept.
enum class PoolWatch : std::uint32_t { kIdle = 0, kSurplus = 1, kWatched = 2 };
inline constexpr std::uint64_t kWarmKeepBytes = 64ull << 20;

// ---------------------------------------------------------------------------------- slots

// kSpare: leased in advance for a child that a worker may fork, then that child's. It holds the
// pins of what the child inherits and never submits anything, so it is no worker's.
enum class SlotState : std::uint32_t { kFree = 0, kAdmitted = 1, kLeaving = 2, kSpare = 3 };

// What an answer says. kNone: never answered.
enum class Outcome : std::uint8_t {
  kNone = 0,
  kCommitted,      // answer_version: the version
  kConflict,       // answer_index: which check; answer_version: the winner's version
  kBadDelta,       // the delta was malformed; nothing was done
  kPoison,         // two owners died working on it; nothing was done
  kJournalFull,    // more steps than the journal it brought can hold; nothing was done
  kDiscarded,      // its worker is gone
  kValidateAgain,  // answer_version: what was validated still held there, and more has been
                   // committed since; 0: nobody knows any more. Nothing was done
};

inline constexpr std::uint32_t kCellClassCount = 26;

// The arbiter's side of a slot, in the data segment.
struct alignas(64) SlotRecord {
  Word answer;  // sequence << 8 | Outcome; release, after the fields below. Waited on.
  Word answer_version;
  HalfWord answer_index;
  HalfWord deaths;         // lock owners that died while working on this slot's request
  Word assigned;           // version under work; cleared by repair when above the clock
  Word assigned_request;   // the request it is for: a version outlives its answer if its maker dies
  HalfWord state;          // SlotState
  HalfWord pid;            // of the worker, for winner_pid and theus-top
  Word admitted_sequence;  // counts admissions of this slot: tells one tenant from the next
  HalfWord nursery;        // unit of the newest node that is linked but not yet bound, or 0
  HalfWord collect[kCellClassCount];  // per class: extent index + 1 with cells to take back
};

// Counters of one worker: written by it alone (relaxed), read by theus-top.
struct alignas(64) Counters {
  Word commits;         // read-write transactions committed
  Word read_only;       // transactions ended without a write
  Word conflicts;       // attempts rejected by arbitration
  Word rollbacks;       // attempts given up by the program
  Word combined;        // deltas of other workers this one arbitrated
  Word payload_bytes;   // bytes written into blocks
  Word lock_waits;      // times it slept on the answer word or the lock
  Word attached_at_ns;  // CLOCK_MONOTONIC
};

inline constexpr std::uint32_t kPinsPerDesk = 2048;
inline constexpr std::uint32_t kBlockPinsPerDesk = 8192;
inline constexpr std::uint64_t kSubmissionBytes = 256 * 1024;
inline constexpr std::uint32_t kLabelBytes = 64;

// A pin word holds version + 1; 0 is free. `pins_high` only grows, and is stored before the first
// use of a pin beyond it, so that a scan that reads it later than the pin's store covers the pin.
struct Desk {
  alignas(64) Word request;  // sequence of the newest submission; seq_cst
  Word submission_link;      // 0: in `submission`; otherwise the Link of a leased run
  Word submission_words;     // length in 8-byte words
  HalfWord sleeping;         // 1: its worker may be asleep on the answer word
  HalfWord pid;
  Word start_time;   // of the process, clock ticks since boot (/proc/pid/stat, 22)
  HalfWord leaving;  // admitted_sequence of the tenant that is done with the slot
  Counters counters;
  char label[kLabelBytes];
  alignas(64) HalfWord pins_high;
  HalfWord block_pins_high;
  Word pin_taken_ns[8];  // CLOCK_MONOTONIC_COARSE of the first pins, for theus-top
  alignas(kPageBytes) Word pins[kPinsPerDesk];
  alignas(kPageBytes) Word block_pins[kBlockPinsPerDesk];  // Link of a Block, 0: free
  alignas(kPageBytes) std::byte submission[kSubmissionBytes];
};
inline constexpr std::uint64_t kDeskBytes = 512 * 1024;
static_assert(sizeof(Desk) <= kDeskBytes);

// ---------------------------------------------------------------------------------- waiters

inline constexpr std::uint32_t kMaxWaiters = 2048;
inline constexpr std::uint32_t kWaiterInterests = 29;
inline constexpr std::uint32_t kEverything = 0xFFFFFFFFu;

// One wait under way (waiters.h). Written under the lock; its waiter sleeps on `wake`, which its
// own process may also set without the lock.
struct alignas(64) WaiterRecord {
  HalfWord wake;   // 0: armed; 1: a commit has touched it since, or its process wants it to look
  HalfWord slot;   // slot + 1 of the process that waits, 0: free
  HalfWord count;  // of interests; kEverything: every commit
  HalfWord reserved;
  Word bloom;  // one bit for each interest: most records are passed over with one look
  Word interest[kWaiterInterests];
};
static_assert(sizeof(WaiterRecord) == 256);

// ---------------------------------------------------------------------------------- header

inline constexpr std::uint32_t kCommitRing = 1u << 16;
inline constexpr std::uint32_t kJournalEntries = 1u << 15;
inline constexpr std::uint32_t kDirectorySegments = 1u << 16;
inline constexpr std::uint32_t kBucketsPerSegment = kExtentBytes / 8;

struct JournalEntry {
  Word place;  // byte offset in the data segment; lowest bit set: a HalfWord
  Word old_value;
};

inline constexpr std::uint64_t kNoVersion = ~std::uint64_t{0};  // a step that is no commit

struct Journal {
  Word version;        // the commit these entries belong to, or kNoVersion
  Word count;          // entries that count; release, after the entry and before the store
  Word region_offset;  // where the entries are: the header's own, or a run the delta brought
  Word region_entries;
};

// See shm/write_ring.h.
struct CommittedWrite {
  Word version;
  Word subject;  // Link of a key, or of a node whose set of keys has changed
};

// First bytes of the data segment.
struct Header {
  Word magic;
  Word stamp;           // layout stamp (stamp.h)
  Word capacity_bytes;  // of the data segment, header included
  Word extents_offset;  // byte offset of extent 0
  Word extent_count;
  Word reserve_at;  // extents from here on are for deltas that only free (extents.h)
  Word hash_seed;
  Word created_at_ns;  // CLOCK_REALTIME
  HalfWord coordinator_pid;
  HalfWord isolated;  // 1: only the coordinator takes the lock

  alignas(64) Word clock;          // the newest committed version; its store is the commit
  alignas(64) Word reclaim_clock;  // versions that died at or below it may be gone
  HalfWord slots_high;             // slots ever admitted: what scans cover
  HalfWord undo_epoch;             // odd while a step is being undone, raised before and after

  alignas(64) pthread_mutex_t lock;  // arbitration lock: robust, process-shared
  Word lock_sequence;                // raised at each acquisition
  HalfWord lock_slot;                // slot (or kNoSlot) of the owner
  HalfWord working_slot;             // slot + 1 whose request the owner works on, 0: none
  Word repairs;                      // EOWNERDEAD seen

  // Bit per slot: set by a worker that could not get the lock and is about to wait, cleared by the
  // owner that then looks at its request. A hint: whoever sleeps does so for 10 ms at most.
  alignas(64) Word waiting[kMaxSlots / 64];

  alignas(64) Word root;    // Link of the root NodeRecord
  Word key_count;           // KeyRecords in the index
  HalfWord bucket_bits;     // log2 of the number of buckets in use
  HalfWord segments_ready;  // directory segments that exist
  Word retained_head;       // retained queue of keys: unit, 0: empty
  Word retained_tail;
  Word retained_count;
  Word dead_head;  // dead queue of nodes: unit
  Word dead_tail;
  Word dead_count;
  HalfWord orphans[kCellClassCount];  // per class: extent index + 1 of ownerless extents
  Word used_extents;                  // not free
  Word backed_extents;                // with memory behind them
  // Where searches for free extents begin. Hints: not journalled, checked before use.
  Word low_hint;   // no free extent is known below it
  Word run_hint;   // where the last search for a longer run ended
  Word ring_next;  // position of the next CommittedWrite
  // The turn: while it is taken, deltas of other slots wait, so that a transaction that has lost
  // too often commits. Ends when that is decided or given up, with its process, or by itself.
  HalfWord turn_slot;        // slot + 1, 0: nobody's; slept on by who wants it next
  HalfWord turns;            // given so far
  Word turn_until_ns;        // CLOCK_MONOTONIC
  HalfWord backlog;          // 1: the janitor is wanted; it sleeps on this word
  HalfWord reserve_returns;  // runs given back to the reserve; who wants one sleeps on it
  // The pool: free memory that is kept warm (arbiter_pool.cpp). Hints, all three.
  HalfWord pool;          // PoolWatch
  Word warm_keep;         // extents of it that stay, however little is in use
  Word warm_low;          // fewest there have been since the janitor looked
  HalfWord waiters;       // records of `waiting_table` in use
  HalfWord waiters_high;  // none is in use from here on
  alignas(64) Journal journal;

  alignas(kPageBytes) SlotRecord slots[kMaxSlots];
  alignas(kPageBytes) HalfWord winner_pid[kCommitRing];  // by version modulo the ring
  alignas(kPageBytes) CommittedWrite ring[kCommitRing];
  alignas(kPageBytes) WaiterRecord waiting_table[kMaxWaiters];
  alignas(kPageBytes) HalfWord directory[kDirectorySegments];  // extent index + 1, 0: none
  alignas(kPageBytes) JournalEntry journal_entries[kJournalEntries];
  alignas(kPageBytes) ExtentRecord extents[1];  // extent_count of them
};

}  // namespace theus::shm
