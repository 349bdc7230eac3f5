/*
 * pin_reclaim.pml: readers pin a snapshot without a lock, a lock holder frees what no pin can see.
 *
 * WHAT IT MODELS
 * One key. Its versions stand in a chain, newest first; each commit raises the clock by one and
 * either links a new record as head (the old head dies at that version), or deletes the key (the
 * head's died_at is stored in place, nothing is linked), or touches another key only. A record is
 * visible at snapshot s if version <= s and (died_at == 0 or s < died_at).
 *
 *   reader      load clock; store pin; seq_cst; valid if reclaim_clock <= pin, else again;
 *               walk the chain; perhaps keep a view (set block pin, clear snapshot pin); clear.
 *   lock holder any number of times, in any order, within one hold: append, scan, prune, publish.
 *               A scan stores reclaim_clock = clock; seq_cst; reads the number of slots; reads all
 *               snapshot pins one by one; reads all block pins one by one. Its result stays with
 *               the holder and is used again, also in later holds, but only for records with
 *               died_at <= the reclaim_clock of that scan.
 *
 * Mirrors shm/pins.cpp `Pins::take`, `release` (reader) and `PinScan::scan`, `invisible`,
 * `block_pinned`; shm/reclaim.cpp `Reclaimer::run`, `prune_chain` (holder); shm/versions.cpp
 * `visible_at`. The code scans anew at each `run`, and prunes only between commits: that is less
 * than the model allows. COPY_PIN mirrors shm/pins.cpp `copy_pins`, called under the lock through
 * shm/arbiter.cpp `Arbiter::copy_pins` by worker/inheritance.cpp `fill` (a fork) and by
 * coordinator/janitor.cpp `place` (a fork in a forked child). There the first pin is the parent's
 * and the copy the child's: that the reader clears the first one at once is the parent releasing it
 * as early as it can.
 *
 * MEMORY. Stores of pins, and of reclaim_clock, go through store buffers as on x86-TSO: a FIFO per
 * reader (BUFFER entries), one entry for the lock holder, emptied at any moment by the machine, or
 * awaited by the seq_cst operation. Loads never see another thread's buffer. Unlocking waits for
 * the buffer: whoever takes the lock next sees what was stored under it. The clock is stored
 * directly: it precedes reclaim_clock in the same FIFO. Records that were freed keep their fields;
 * what happens when they are filled again is generation.pml's matter.
 *
 * ASSERTED
 *   - a validated reader finds exactly the record that its snapshot shows (`truth`), not freed,
 *     and it is not freed until the pin is cleared;
 *   - the block of a held view is not freed while the view is held.
 *
 * WHY IT HOLDS. Let record R, [version, died_at), be visible at pin p, and let a scan with clock c
 * >= died_at > p judge R. If the reader's second look came before the scan's store of
 * reclaim_clock, its pin was visible by then (seq_cst on both sides). So the scan saw it, or saw
 * what came after it: the block pin, which is set before the pin is cleared, and read after the
 * pins are. If the look came after, it found reclaim_clock >= c > p, and the reader took another.
 *
 * MUST PASS
 *   PUT_ONLY              two readers, one of which opens its slot; one lock holder, whose commits
 *                         all link a record
 *   READERS=1 HOLDERS=2   two lock holders, each with a scan of its own that it keeps
 *   READERS=1 COMMITS=3 BUFFER=2   commits of all three kinds in longer chains
 *   READERS=1 COPY_PIN    a reader that copies its pin to another slot and back, under the lock
 *
 * VARIANTS THAT MUST FAIL
 *   NO_SECOND_LOOK        the pin is stored after the scan has passed it
 *   NO_FENCE              the pin sits in the store buffer while the second look is taken
 *   NO_RECLAIM_FENCE      reclaim_clock sits in the holder's buffer while pins are read
 *   PRUNE_AT_UNPUBLISHED  the old head is judged by the version being appended: a reader that
 *                         validates at the still current clock needs exactly that record
 *   REUSE_SCAN            a scan serves records that died after it: it cannot know newer pins
 *   SLOTS_BEFORE_FENCE    the number of slots is read before the fence: a slot opened meanwhile
 *                         holds a valid pin that is not looked at
 *   BLOCK_PIN_LATE        between clear and set the view has no pin at all
 *   BLOCK_SCAN_FIRST      the pin goes from where the scan has not looked yet to where it has
 *   COPY_PIN + COPY_WITHOUT_LOCK   the same with two snapshot slots
 *   WITNESS               not a bug: asserts that nothing is ever freed while a pin stands
 */

#ifndef COMMITS
#define COMMITS 2
#endif
#ifndef BUFFER
#define BUFFER 1
#endif
#ifndef READERS
#define READERS 2
#endif
#ifndef HOLDERS
#define HOLDERS 1
#endif

#define FIRST 1                     /* the state begins at version 1, with record 1 as head */
#define LAST  (FIRST + COMMITS)
#define SLOTS 2

/* Words that readers write through their store buffers. */
#define PIN(slot)   (slot)          /* snapshot pin: a version, 0 for none */
#define BLOCK(slot) (SLOTS + (slot))/* block pin: the record whose block a view holds, 0 for none */
#define OPEN_SLOTS  (2 * SLOTS)     /* number of slots in use */
byte word[2 * SLOTS + 1];
chan buffer[READERS] = [BUFFER] of { byte, byte };

byte clock = FIRST;
byte reclaim_clock = FIRST;
byte reclaim_buffer;                /* the holder's store buffer for reclaim_clock, 0 if empty */
bit  locked;

/* Record v is the one that version v linked; 0 is the null link. */
byte head = FIRST;
byte below[LAST + 1];
byte died_at[LAST + 1];
bit  linked[LAST + 1];              /* ghost of the walk that the holder does under the lock */
bit  freed[LAST + 1];
byte truth[LAST + 1];               /* ghost: the record each version shows */

#define BITS_BELOW(v)        ((1 << (v)) - 1)
#define PINNED_IN(set, a, b) ((set) & (BITS_BELOW(b) & ~BITS_BELOW(a)))

proctype store_buffer(byte owner)
{
	byte address, value;
end:
	do
	:: d_step { buffer[owner]?address, value -> word[address] = value; address = 0; value = 0 }
	od
}

proctype reclaim_store_buffer()
{
end:
	do
	:: d_step { reclaim_buffer != 0 -> reclaim_clock = reclaim_buffer; reclaim_buffer = 0 }
	od
}

proctype reader(byte me)
{
	byte slot = me;
	byte snapshot, record;

#if READERS > 1
	if
	:: slot > 0 -> buffer[me]!OPEN_SLOTS, slot + 1      /* this process opens one more slot */
	:: slot == 0
	fi;
#endif
end_take:
	snapshot = clock;
	buffer[me]!PIN(slot), snapshot;
#ifndef NO_FENCE
	empty(buffer[me]);
#endif
#ifndef NO_SECOND_LOOK
	if
	:: reclaim_clock <= snapshot
	:: reclaim_clock > snapshot -> goto end_take
	fi;
#endif

#ifdef COPY_PIN
	if
	:: true
	::
#ifndef COPY_WITHOUT_LOCK
		atomic { !locked -> locked = 1 };
#endif
		buffer[me]!PIN(1 - slot), snapshot;
		buffer[me]!PIN(slot), 0;
		empty(buffer[me]);
		slot = 1 - slot;
#ifndef COPY_WITHOUT_LOCK
		locked = 0
#endif
	fi;
#endif

	record = head;
	do
	:: record > snapshot -> record = below[record]
	:: record <= snapshot -> break
	od;
	if
	:: d_step { record != 0 && died_at[record] != 0 && died_at[record] <= snapshot -> record = 0 }
	:: else
	fi;
	assert(record == truth[snapshot]);      /* the right record */
	assert(!freed[record]);                 /* and still there when its value is copied out */

	if
	:: buffer[me]!PIN(slot), 0
	:: record != 0 ->                       /* keep a view */
#ifdef BLOCK_PIN_LATE
		buffer[me]!PIN(slot), 0;
		buffer[me]!BLOCK(slot), record;
#else
		buffer[me]!BLOCK(slot), record;
		buffer[me]!PIN(slot), 0;
#endif
		empty(buffer[me]);
		assert(!freed[record]);             /* the view still shows its content */
		buffer[me]!BLOCK(slot), 0
	fi;
	d_step { snapshot = 0; record = 0 };
	goto end_take
}

/* May `r` be freed, for all that this holder's scan knows? */
#ifdef REUSE_SCAN
#define OLD_ENOUGH(r) (died_at[r] <= clock)
#else
#ifdef PRUNE_AT_UNPUBLISHED
#define OLD_ENOUGH(r) (died_at[r] <= scan_clock + (scan_clock == clock))
#else
#define OLD_ENOUGH(r) (died_at[r] <= scan_clock)
#endif
#endif
#define FREEABLE(r) (scan_clock != 0 && linked[r] && died_at[r] != 0 && OLD_ENOUGH(r) \
	&& !PINNED_IN(pins_seen, r, died_at[r]) && !(blocks_seen & (1 << (r))))

inline read_slots()   { slots = word[OPEN_SLOTS] }
inline read_pins()
{
	slot = 0;
	do
	:: d_step { slot < slots -> pins_seen = pins_seen | (1 << word[PIN(slot)]); slot++ }
	:: d_step { slot >= slots -> pins_seen = pins_seen & ~1; slot = 0 } -> break
	od
}
inline read_blocks()
{
	slot = 0;
	do
	:: d_step { slot < slots -> blocks_seen = blocks_seen | (1 << word[BLOCK(slot)]); slot++ }
	:: d_step { slot >= slots -> blocks_seen = blocks_seen & ~1; slot = 0 } -> break
	od
}

proctype holder()
{
	byte scan_clock, pins_seen, blocks_seen;    /* the scan this process remembers */
	byte slots, slot;
	byte appended;                              /* the version being appended, 0 if none */
	byte victim, above;

end_unlocked:
	atomic { !locked -> locked = 1 };
	do
	:: appended == 0 && clock < LAST ->         /* append a record */
		d_step { appended = clock + 1; below[appended] = head };
		if
		:: d_step { head != 0 && died_at[head] == 0 -> died_at[head] = appended }
		:: else
		fi;
		d_step { head = appended; linked[appended] = 1 };
		truth[appended] = appended
#ifndef PUT_ONLY
	:: appended == 0 && clock < LAST && head != 0 && died_at[head] == 0 ->  /* delete the key */
		appended = clock + 1;
		died_at[head] = appended
	:: appended == 0 && clock < LAST ->         /* a commit to another key */
		d_step { appended = clock + 1; truth[appended] = truth[clock] }
#endif

	:: d_step { pins_seen = 0; blocks_seen = 0; scan_clock = clock } ->
#ifdef SLOTS_BEFORE_FENCE
		read_slots();
#endif
		reclaim_buffer = scan_clock;
#ifndef NO_RECLAIM_FENCE
		reclaim_buffer == 0;
#endif
#ifndef SLOTS_BEFORE_FENCE
		read_slots();
#endif
#ifdef BLOCK_SCAN_FIRST
		read_blocks();
		read_pins();
#else
		read_pins();
		read_blocks();
#endif
		slots = 0

	:: atomic {                                 /* prune one record */
		if
		:: FREEABLE(1) -> victim = 1
#if COMMITS > 1
		:: FREEABLE(2) -> victim = 2
#endif
#if COMMITS > 2
		:: FREEABLE(3) -> victim = 3
#endif
		fi
		};
		if
		:: d_step { head == victim -> head = below[victim] }
		:: d_step { head != victim ->
			above = head;
			do
			:: below[above] == victim -> break
			:: else -> above = below[above]
			od;
			below[above] = below[victim];
			above = 0
			}
		fi;
		d_step { freed[victim] = 1; linked[victim] = 0; victim = 0 };
#ifdef WITNESS
		assert(word[PIN(0)] == 0);
#endif

	:: appended != 0 -> d_step { clock = appended; appended = 0 }
	:: appended == 0 && reclaim_buffer == 0 -> break
	od;
	locked = 0;
	goto end_unlocked
}

init {
	byte i;
	atomic {
		#ifdef COPY_PIN
		word[OPEN_SLOTS] = 2;
#else
		word[OPEN_SLOTS] = 1;
#endif
		linked[FIRST] = 1;
		truth[FIRST] = FIRST;
		for (i : 0 .. READERS - 1) { run reader(i); run store_buffer(i) }
		for (i : 1 .. HOLDERS) { run holder() }
		run reclaim_store_buffer()
	}
}
