/*
 * order_back.pml: reading a mapping's order from its end, along units that have no generation.
 *
 * WHAT IT MODELS
 * Order chunks of two mappings, N and M. Chunk 0 of N holds an entry that the reader's pin keeps, so
 * it stays where it is: the first of N. All others may be emptied, taken out of the order, filled
 * again, and linked as the last of N or of M.
 *
 *   owner    fills a cell that is free: raises the generation, THEN the rest.
 *   arbiter  appends a filled chunk: its prev, its state, then `last`; takes one out: the prev of the
 *            one behind it, or `last`, then its state. Either may be undone in reverse (its maker has
 *            died, or the delta is refused) before anything else happens.
 *   reader   walks back from `last` of N. It reads `last`, the generation of that chunk, and `last`
 *            again. Further on: a chunk's prev, the generation of the chunk that it names, whether
 *            the first is linked, its prev again, and its generation. On a difference it starts again.
 *            Places are read between: so a chunk whose generation has changed is noticed there.
 *
 * Why it holds. Say the chunk that was named has been filled anew when its generation is read. Its
 * release came after the word had changed, and the second look at the word sees it; or after the
 * chunk with the word had left the order itself, and then that is not linked. Unless it has been
 * linked since: by the same delta, applied again after an undo, and its prev had been stored before
 * that, so the look at the word must come after the one at the state; or filled anew, and its
 * generation had been raised before all that, so this is read last.
 *
 * Mirrors shm/tables.cpp `append_place`, `clear_place` (arbiter), worker/stock.cpp `Stock::hold`
 * (owner), shm/versions.cpp `last_chunk`, `chunk_before`, `in_order`, and worker/reader.cpp
 * `Walk::backward` (reader, which here rests nowhere: starting again from a resting place is the
 * same with fewer chunks). Stores are seen in program order, as in generation.pml.
 *
 * ASSERTED: the reader comes to chunk 0, and never reads a chunk of M.
 *
 * VARIANTS THAT MUST FAIL
 *   ONE_LOOK        the unit is not read again: the one before has gone meanwhile
 *   LOOK_FIRST      it is, but before the state: linked again after an undo, behind another
 *   LINKED_UNSEEN   the chunk that names it has left the order, and so has the one that it names
 *   OWN_GEN_UNSEEN  the same, and it has been filled and linked again
 *   OWN_GEN_FIRST   the same, between the looks
 *   GEN_LATE        the cell is linked anew before its generation says so
 *   WITNESS         not a bug: asserts that the reader never has to start again
 */

#ifndef FILLS
#define FILLS 3
#endif
#ifndef STEPS
#define STEPS 6
#endif

#define CELLS 4
#define NONE  CELLS
#define N 0
#define M 1

mtype = { free, held, linked };

/* -- shared memory -------------------------------------------------------------------------- */
byte generation[CELLS];
byte prev[CELLS] = NONE;
mtype state[CELLS] = free;
byte last[2] = NONE;

/* -- ghost ---------------------------------------------------------------------------------- */
byte home[CELLS];                   /* of which mapping, as of its present generation */
bool busy;                          /* the arbiter is at work: who fills, does it outside */

proctype owner()
{
	byte c, fills;
end:
	do
	:: atomic {
			if
			:: fills < FILLS && !busy && state[1] == free -> c = 1
			:: fills < FILLS && !busy && state[2] == free -> c = 2
			:: fills < FILLS && !busy && state[3] == free -> c = 3
			fi;
			fills++
		};
#ifndef GEN_LATE
		generation[c]++;
#endif
		atomic {
			if
			:: home[c] = N
			:: home[c] = M
			fi;
			state[c] = held;
			c = 0
		}
	od
}

inline behind(chunk, found)         /* the chunk whose prev it is, NONE: it is the last */
{
	if
	:: last[home[chunk]] == chunk -> found = NONE
	:: state[0] == linked && prev[0] == chunk -> found = 0
	:: state[1] == linked && prev[1] == chunk -> found = 1
	:: state[2] == linked && prev[2] == chunk -> found = 2
	:: state[3] == linked && prev[3] == chunk -> found = 3
	fi
}

proctype arbiter()
{
	byte c, next, steps;
end:
	do
	:: atomic {
			if
			:: steps < STEPS && state[1] == held -> c = 1
			:: steps < STEPS && state[2] == held -> c = 2
			:: steps < STEPS && state[3] == held -> c = 3
			fi;
			busy = true; steps++
		};
		prev[c] = last[home[c]];
		state[c] = linked;
		last[home[c]] = c;
#ifdef GEN_LATE
		generation[c]++;
#endif
		if
		:: true
		:: last[home[c]] = prev[c]; state[c] = held     /* undone */
		fi;
		d_step { busy = false; c = 0 }
	:: atomic {
			if
			:: steps < STEPS && state[1] == linked -> c = 1
			:: steps < STEPS && state[2] == linked -> c = 2
			:: steps < STEPS && state[3] == linked -> c = 3
			fi;
			busy = true; steps++;
			behind(c, next)
		};
		if
		:: next == NONE -> last[home[c]] = prev[c]
		:: else -> prev[next] = prev[c]
		fi;
		state[c] = free;
		if
		:: true
		:: state[c] = linked;                           /* undone */
			if
			:: next == NONE -> last[home[c]] = c
			:: else -> prev[next] = c
			fi
		fi;
		d_step { busy = false; c = 0; next = 0 }
	od
}

#ifdef WITNESS
#define AGAIN assert(false)
#else
#define AGAIN d_step { at = 0; its = 0; to = 0; tos = 0 }; goto restart
#endif

proctype reader()
{
	byte at, its, to, tos;
restart:
	to = last[N];
	assert(to != NONE);                                 /* chunk 0 is there */
	tos = generation[to];
#ifndef ONE_LOOK
	if
	:: last[N] == to
	:: else -> AGAIN
	fi;
#endif
	d_step { at = to; its = tos };
	do
	:: atomic {                                         /* its places, then its generation */
			if
			:: generation[at] != its -> AGAIN
			:: else
			fi;
#ifndef GEN_LATE
			assert(state[at] == free || home[at] == N)
#endif
		};
		if
		:: at == 0 -> break
		:: else
		fi;
		to = prev[at];
		if
		:: to != NONE -> tos = generation[to]
		:: else
		fi;
#ifdef LOOK_FIRST
		if
		:: prev[at] == to
		:: else -> AGAIN
		fi;
#endif
#ifdef OWN_GEN_FIRST
		if
		:: generation[at] == its
		:: else -> AGAIN
		fi;
#endif
#ifndef LINKED_UNSEEN
		if
		:: state[at] == linked
		:: else -> AGAIN
		fi;
#endif
#if !defined(ONE_LOOK) && !defined(LOOK_FIRST)
		if
		:: prev[at] == to
		:: else -> AGAIN
		fi;
#endif
#if !defined(OWN_GEN_FIRST) && !defined(OWN_GEN_UNSEEN)
		if
		:: generation[at] == its
		:: else -> AGAIN
		fi;
#endif
		assert(to != NONE);                             /* it would have missed the entry */
		d_step { at = to; its = tos; to = 0; tos = 0 }
	od
}

init {
	atomic {
		state[0] = linked; state[1] = linked; state[2] = linked;
		prev[1] = 0; prev[2] = 1; last[N] = 2;
		run owner(); run arbiter(); run reader()
	}
}
