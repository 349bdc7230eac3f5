/*
 * generation.pml: type-stable cells, whose generation tells a reader when a cell became another's.
 *
 * WHAT IT MODELS
 * Two keys, A and B, each with a chain of records, newest first. A record lives in a cell. A link
 * is the cell's offset, and the generation that the cell had when it was linked, in one word.
 *
 *   owner    takes a cell that is its own (free, or given back after an undo) for either key:
 *            raises the generation, THEN fills the fields, then submits.
 *   arbiter  links a submitted cell: version = clock + 1, prev = head, head = link. Then either
 *            publishes it by the clock; or dies, and repair restores head: the record had been
 *            visible, and is applied again, or goes back to its owner. Also prunes a superseded
 *            record that the pin cannot see: takes it out of the chain and gives the cell back,
 *            its fields and generation left as they are.
 *   reader   pins the clock, walks the chain of A: loads a link, reads the fields, re-reads the
 *            generation; if it is not the link's, starts again at the head.
 *
 * The generation is raised once per filling. Linking the same filling again after an undo needs no
 * new one: who saw it has a snapshot below its version, and goes through it to the older record.
 *
 * Mirrors worker/stock.cpp `Stock::hold` and worker/cell_writer.cpp (owner); shm/commit.cpp
 * `Committer::replace`, `link_record` and shm/journal.cpp (arbiter); shm/reclaim.cpp `prune_chain`
 * and shm/cells.cpp `release`; shm/versions.cpp `read_record`, `visible_at` (reader). The pin is
 * one step here, and pruning looks at it directly: that part is pin_reclaim.pml. Stores are seen in
 * program order: the model stands for release stores of the fields after the generation's, and
 * acquire loads of the fields before the second look. Generations do not wrap here: the field must
 * be wide enough that none comes round within one hop of a reader.
 *
 * ASSERTED: the reader returns the value of A that its snapshot shows: never one of B, never none.
 *
 * MUST PASS: (none).
 *
 * VARIANTS THAT MUST FAIL
 *   NO_RECHECK         the reader stands on a cell that has become another key's
 *   GEN_AFTER_FIELDS   it reads the new fields, and then still the old generation
 *   GEN_ONLY_AT_LEASE  a cell that was linked, undone and given back is filled again under the
 *                      generation that some reader holds in a link
 *   GEN_UNDONE         undo takes the generation back; the next filling raises it to the same
 *   WITNESS            not a bug: asserts that no reader ever has to start again
 * Each but WITNESS is run with OTHER_KEY_ONLY, which overlooks every wrong answer except the worst,
 * a value of the other key.
 */

#ifndef COMMITS
#define COMMITS 2
#endif
#ifndef FILLS
#define FILLS 4
#endif

#define FIRST 1                     /* both keys have a record at version 1 */
#define LAST  (FIRST + COMMITS)
#define KEYS  2
#define A     0
#define B     1
#define CELLS 4

#define LINK(cell, gen) (((cell) + 1) * 16 + (gen))     /* 0 is the null link */
#define CELL(link)      ((link) / 16 - 1)
#define GENERATION(link) ((link) % 16)
#define VALUE(key, n)   ((key) * 16 + (n))

#ifdef OTHER_KEY_ONLY
#define RIGHT(value) (value / 16 == A)
#define WRONG_END    goto restart
#else
#define RIGHT(value) (value == truth[snapshot])
#define WRONG_END    assert(false)
#endif

/* -- shared memory -------------------------------------------------------------------------- */
typedef Cell { byte generation; byte version; byte value; byte prev }
Cell cell[CELLS];
byte head[KEYS];
byte clock = FIRST;
byte pin;                           /* the reader's snapshot, 0 for none */

/* -- known under the lock, or to the owner alone --------------------------------------------- */
mtype = { leased, given_back, submitted, live };
mtype state[CELLS] = leased;
byte key_of[CELLS];
byte died_at[CELLS];
byte truth[LAST + 1];               /* ghost: the value of A at each version */

#define MINE(c)      (state[c] == leased || state[c] == given_back)
#define LINKABLE(c)  (state[c] == submitted && clock < LAST)
#define PRUNABLE(c)  (state[c] == live && died_at[c] != 0 \
	&& !(cell[c].version <= pin && pin < died_at[c]))

inline raise_generation()
{
#ifdef GEN_ONLY_AT_LEASE
	if
	:: state[c] == leased -> cell[c].generation++
	:: state[c] == given_back
	fi
#else
	cell[c].generation++
#endif
}

proctype owner()
{
	byte c, fills;
end:
	do
	:: atomic {
			if
			:: fills < FILLS && MINE(0) -> c = 0
			:: fills < FILLS && MINE(1) -> c = 1
			:: fills < FILLS && MINE(2) -> c = 2
			:: fills < FILLS && MINE(3) -> c = 3
			fi;
			fills++;
			if
			:: key_of[c] = A
			:: key_of[c] = B
			fi
		};
#ifndef GEN_AFTER_FIELDS
		raise_generation();
#endif
		cell[c].version = 0;
		cell[c].value = VALUE(key_of[c], fills);
		cell[c].prev = 0;
#ifdef GEN_AFTER_FIELDS
		raise_generation();
#endif
		d_step { state[c] = submitted; c = 0 }
	od
}

proctype arbiter()
{
	byte c, old, above;
end:
	do
	:: atomic {
			if
			:: LINKABLE(0) -> c = 0
			:: LINKABLE(1) -> c = 1
			:: LINKABLE(2) -> c = 2
			:: LINKABLE(3) -> c = 3
			fi;
			old = head[key_of[c]]                       /* and into the journal */
		};
		cell[c].version = clock + 1;
		cell[c].prev = old;
		head[key_of[c]] = LINK(c, cell[c].generation);
		if
		:: d_step {                                     /* publish */
				clock++;
				truth[clock] = (key_of[c] == A -> cell[c].value : truth[clock - 1]);
				died_at[CELL(old)] = clock;
				died_at[c] = 0;
				state[c] = live;
				c = 0; old = 0
			}
		:: head[key_of[c]] = old;                       /* the owner of the lock died: undo */
			if
			:: true                                     /* it is applied again later */
			:: true ->                                  /* its delta was refused */
#ifdef GEN_UNDONE
				cell[c].generation--;
#endif
				state[c] = given_back
			fi;
			d_step { c = 0; old = 0 }
		fi
	:: atomic {
			if
			:: PRUNABLE(0) -> c = 0
			:: PRUNABLE(1) -> c = 1
			:: PRUNABLE(2) -> c = 2
			:: PRUNABLE(3) -> c = 3
			fi;
			do
			:: state[above] == live && key_of[above] == key_of[c] && CELL(cell[above].prev) == c -> break
			:: else -> above++
			od
		};
		cell[above].prev = cell[c].prev;
		d_step { state[c] = leased; died_at[c] = 0; c = 0; above = 0 }
	od
}

proctype reader()
{
	byte snapshot, link, next, version, value;
end_idle:
	atomic { snapshot = clock; pin = snapshot };
restart:
	link = head[A];
	do
	:: version = cell[CELL(link)].version;
		if
		:: version <= snapshot -> value = cell[CELL(link)].value
		:: version > snapshot -> next = cell[CELL(link)].prev
		fi;
#ifndef NO_RECHECK
		if
		:: cell[CELL(link)].generation == GENERATION(link)
		:: else ->
#ifdef WITNESS
			assert(false);
#endif
			d_step { version = 0; value = 0; next = 0 };
			goto restart
		fi;
#endif
		if
		:: version <= snapshot -> break
		:: version > snapshot ->
			if
			:: next != 0
			:: next == 0 -> WRONG_END                   /* A is in every snapshot */
			fi;
			d_step { link = next; next = 0 }
		fi
	od;
	assert(RIGHT(value));
	d_step { pin = 0; snapshot = 0; link = 0; version = 0; value = 0 };
	goto end_idle
}

init {
	atomic {
		cell[0].version = FIRST; cell[0].value = VALUE(A, 0); key_of[0] = A; state[0] = live;
		cell[1].version = FIRST; cell[1].value = VALUE(B, 0); key_of[1] = B; state[1] = live;
		head[A] = LINK(0, 0);
		head[B] = LINK(1, 0);
		truth[FIRST] = VALUE(A, 0);
		run owner(); run arbiter(); run reader()
	}
}
