/*
 * read_set.pml: a read set that its worker validates without the lock, and the ring of committed
 * writes from which the arbiter learns what has changed since.
 *
 * WHAT IT MODELS
 * One worker has a snapshot of version 0 and has read one thing of a mapping that has one key and
 * is otherwise empty: the value of that key, the mapping's whole set of keys, or whether the
 * mapping is empty (here `count` is of the other keys). Other workers commit or undo DELTAS deltas,
 * one lock hold each; every store is a step.
 *
 *   delta     v = clock + 1, and one of: end the key's record (died_at = v), alone or as the last of
 *             many; insert or delete a key (structure_version = v, then count); write one or four
 *             keys elsewhere. Then the ring:
 *             the node if its keys changed, each key; one delta enters at most PER_DELTA, the last
 *             of them the mark "and more"; ring_next. Then clock = v; or the words are restored in
 *             reverse (by itself or by repair: here the same), with undo_epoch odd meanwhile.
 *   validate  c1 = clock; judge: the record is alive, or died above c1; structure_version is at
 *             most the snapshot (holds), at most c1 (fails), above (open); count, between two looks
 *             at an even undo_epoch, with structure_version at most c1 (else open)
 *   arbiter   with the lock: what is open is checked in full; then the entries above c1, from the
 *             oldest, WALK of them and the rest of their delta: an entry of what was read has it
 *             checked in full. More: submitted again from there. A mark, or an entry that may have
 *             been overwritten: validated again.
 *
 * Mirrors worker/validate.cpp `Judge`; worker/reader.cpp `settled_count`; worker/submit.cpp
 * `hand_in`, `prepare_read_set`; shm/read_set.cpp `ReadSet::check_written_since`;
 * shm/write_ring.cpp, shm/write_ring.h `WriteRing`; shm/commit.cpp `Committer::change_keys`,
 * `note_write`; shm/journal.cpp `StepJournal::take_back`.
 *
 * WHY IT HOLDS. What was read is as it was unless somebody has changed it; take the last commit
 * that did. At or below c1, the judge sees it: the clock was loaded first (acquire), and what is
 * found in place is of that commit or of a later step. Above c1, the ring has its entry, for the
 * arbiter looks at all of them or says so. A number above c1 is of a step whose end is not known.
 * `died_at` hides nothing, it has no earlier value but 0; `structure_version` may hide one between
 * snapshot and c1, so it is left open.
 *
 * ORDER. Loads are acquire, stores release: every step sees what was stored before what it sees, as
 * here. Not modelled: chains and generations (generation.pml), absences (as the set of keys), pins.
 *
 * ASSERTED
 *   - it is committed only if what it read is as it was in every commit up to then;
 *   - it is refused only if it is not, or (emptiness) was not at some time since the snapshot.
 *
 * MUST PASS: (none)
 *
 * VARIANTS THAT MUST FAIL
 *   LATE_CLOCK              the judge loads the clock after it has looked
 *   IN_FLIGHT_FAILS         a record that dies above c1 is taken for dead
 *   IN_FLIGHT_HOLDS         a structure version above c1 is taken for unchanged
 *   EPOCH_ONCE              undo raises the epoch only before it restores
 *   NODE_NOT_ENTERED        the ring has keys only
 *   NO_LIMIT                a delta enters all it writes: undone, it has overwritten what counts
 *   NO_MARK                 a delta that writes more than it enters does not say so
 *   WRAP_IGNORED            an entry that is no longer there is taken for none
 *   PROGRESS_TOO_FAR        submitted again from the delta at which the arbiter stopped
 *   WITNESS                 (no bug) it is never committed after it was validated twice
 */
#ifndef DELTAS
#define DELTAS 4
#endif
#define RING      6
#define PER_DELTA 3
#define WALK      1

#define MARK      0
#define KEY       1
#define NODE      2
#define ELSEWHERE 3
#define COUNT     4                     /* what is read; its entry is the node's */

/* -- shared memory -------------------------------------------------------------------------- */
byte clock, undo_epoch;
byte died_at, structure_version, count;
byte ring_version[RING], ring_subject[RING], ring_next;
bool locked;

/* -- ghosts: as of the clock ------------------------------------------------------------------ */
bool key_dead, keys_changed, has_entries, had_entries;

#define LOCK   atomic { !locked -> locked = true }
#define UNLOCK locked = false

inline note(what)
{
	if
#ifdef NO_LIMIT
	:: false
#else
	:: used == PER_DELTA
#endif
	:: else ->
		ring_version[ring_next % RING] = v;
#if defined(NO_LIMIT) || defined(NO_MARK)
		ring_subject[ring_next % RING] = what;
#else
		ring_subject[ring_next % RING] = (used == PER_DELTA - 1 -> MARK : what);
#endif
		ring_next++;
		used++
	fi
}

proctype committers()
{
	byte deltas, what, v, used, begin, old, i;
	do
	:: deltas < DELTAS ->
		LOCK;
		d_step { deltas++; v = clock + 1; begin = ring_next };
		if
		:: died_at == 0 -> what = KEY; died_at = v; note(KEY)
		:: what = NODE; old = structure_version; structure_version = v; count = 1 - count;
#ifndef NODE_NOT_ENTERED
			note(NODE);
#endif
			note(ELSEWHERE)
		:: what = ELSEWHERE; note(ELSEWHERE)
		:: what = ELSEWHERE;
			do
			:: i < RING - 2 -> note(ELSEWHERE); i++
			:: else -> break
			od
		:: died_at == 0 -> what = KEY; died_at = v;     /* the last of many */
			do
			:: i < PER_DELTA -> note(ELSEWHERE); i++
			:: i >= PER_DELTA - 1 -> break
			od;
			note(KEY)
		fi;
		if
		:: d_step {                                     /* the commit */
				clock = v;
				key_dead = (died_at != 0);
				keys_changed = (structure_version != 0);
				has_entries = (count != 0);
				had_entries = had_entries || has_entries
			}
		:: undo_epoch++;
			ring_next = begin;
			if
			:: what == KEY -> died_at = 0
			:: what == NODE -> count = 1 - count; structure_version = old
			:: what == ELSEWHERE
			fi;
#ifndef EPOCH_ONCE
			undo_epoch++
#endif
		fi;
		d_step { v = 0; used = 0; begin = 0; old = 0; what = 0; i = 0 };
		UNLOCK
	:: else -> break
	od
}

/* Under the lock, of the newest version. */
#define HOLDS ((read == KEY && died_at == 0) || (read == NODE && structure_version == 0) \
	|| (read == COUNT && count == 0))
#define IS_READ(subject) (subject == (read == COUNT -> NODE : read))
#define WINDOW (RING - PER_DELTA)
#define FIRST  (ring_next > WINDOW -> ring_next - WINDOW : 0)

proctype worker()
{
	byte read, c1, found, counted, epoch, at, seen, validations;
	bool open, decided, again;
	if
	:: read = KEY
	:: read = NODE
	:: read = COUNT
	fi;
validate:
	validations++;
#ifndef LATE_CLOCK
	c1 = clock;
#endif
	if
	:: read == KEY -> found = died_at;
#ifdef LATE_CLOCK
		c1 = clock;
#endif
#ifdef IN_FLIGHT_FAILS
		if
		:: found != 0 -> goto refused
		:: found == 0
		fi
#else
		if
		:: found != 0 && found <= c1 -> goto refused
		:: found == 0 || found > c1
		fi
#endif
	:: read == NODE -> found = structure_version;
#ifdef LATE_CLOCK
		c1 = clock;
#endif
		if
		:: found == 0
		:: found != 0 && found <= c1 -> goto refused
#ifdef IN_FLIGHT_HOLDS
		:: found > c1
#else
		:: found > c1 -> open = true
#endif
		fi
	:: read == COUNT -> epoch = undo_epoch; counted = count; found = structure_version;
#ifdef LATE_CLOCK
		c1 = clock;
#endif
		if
#ifdef EPOCH_ONCE
		:: found <= c1 && undo_epoch == epoch ->
#else
		:: found <= c1 && epoch % 2 == 0 && undo_epoch == epoch ->
#endif
			if
			:: counted != 0 -> goto refused
			:: counted == 0
			fi
		:: else -> open = true
		fi
	fi;
	d_step { found = 0; counted = 0; epoch = 0 };
submit:
	LOCK;
	d_step {                                            /* nobody else is writing */
		decided = false; again = false; seen = 0;
		if
		:: open && !HOLDS -> decided = true
		:: else
		fi;
		at = FIRST;
		do
		:: at < ring_next && ring_version[at % RING] <= c1 -> at++
		:: else -> break
		od;
#ifndef WRAP_IGNORED
		if
		:: !decided && at == FIRST && FIRST > 0 -> again = true; c1 = 0
		:: else
		fi;
#endif
		do
		:: decided || again || at >= ring_next -> break
		:: !decided && !again && at < ring_next && seen >= WALK && ring_version[at % RING] != c1 ->
			again = true;
#ifdef PROGRESS_TOO_FAR
			c1 = ring_version[at % RING];
#endif
			break
		:: else ->
			c1 = ring_version[at % RING];
			if
			:: ring_subject[at % RING] == MARK -> again = true; c1 = 0
			:: IS_READ(ring_subject[at % RING]) && !HOLDS -> decided = true
			:: else
			fi;
			at++; seen++
		od;
		at = 0; seen = 0
	};
	if
	:: decided -> UNLOCK; goto refused
	:: !decided && !again -> goto committed
	:: !decided && again -> UNLOCK;
		if
		:: c1 == 0 -> open = false; goto validate
		:: c1 != 0 -> goto submit
		fi
	fi;
committed:
	assert(read != KEY || !key_dead);
	assert(read != NODE || !keys_changed);
	assert(read != COUNT || !has_entries);
#ifdef WITNESS
	assert(validations < 2);
#endif
	UNLOCK;
	goto over;
refused:
	assert(read != KEY || key_dead);
	assert(read != NODE || keys_changed);
	assert(read != COUNT || had_entries);
over:
	skip
}

init {
	atomic { run committers(); run worker() }
}
