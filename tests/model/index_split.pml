/*
 * index_split.pml: a split-ordered list, one writer, and a reader that looks without a lock.
 *
 * WHAT IT MODELS
 * All keys stand in one list, sorted by the bit-reversed hash ("order"); keys have odd orders. The
 * directory entry of bucket b is the link to the first key at or after the bucket's place, an even
 * order, and the list runs through the entry: the key before it links to "marker b", which means
 * "go on at entry b". With 2 bits of hash:
 *
 *      order   0         1       2         3       4         5       6         7
 *              bucket 0  hash 0  bucket 2  hash 2  bucket 1  hash 1  bucket 3  hash 3
 *
 * Doubling the directory moves nothing: new entries are 0, and who finds a 0 goes to the parent
 * (the bucket without its top bit). Keys live in type-stable cells; a link is cell and generation.
 * A key is two words here (order and tag), so that two keys can share an order, and a reader can
 * meet half of one and half of another.
 *
 *   writer  under the lock, each store a step, OPERATIONS of these in any order:
 *           insert: raise the generation, fill the cell, set its bucket up if it is not (entry =
 *           what the word before it holds, then that word = marker), next, word before = link;
 *           remove: word before = next, and the cell is free, its fields as they are; double.
 *           After any store the writer may die: repair restores all words of the step, in reverse.
 *           What an undone insert had filled is inserted again as it is, or filled anew.
 *   reader  size; entry, or the nearest ancestor's that is not 0; then hop by hop: order, next,
 *           tag, and the generation again. If that is not the link's, or a word is 0, it starts
 *           again from the size. No verdict, found or absent, before the generation was checked.
 *
 * Mirrors shm/index.cpp `find_key` (reader), `Index::insert`, `remove`, `usable_bucket`, `advance`,
 * `double_buckets` (writer); worker/stock.cpp `Stock::hold` (generation).
 *
 * WHY IT HOLDS. What a reader took from a cell was true of one filling of it. If that filling has
 * left the list, its next link is as it was then, and led on past nothing that was there all the
 * time; what it leads to is checked in its turn. Entries are always up to date.
 *
 * ASSERTED
 *   - a key that is in the list from the search's beginning to its end is found, one that is out
 *     all that time is not: for a key that stands there from the first, for one that is never
 *     inserted, and for keys that come and go before and after the search;
 *   - the search ends (checked with -DNP and pan -l): it starts again only when something changed.
 *
 * MUST PASS: (none).
 *
 * VARIANTS THAT MUST FAIL
 *   NO_GEN_CHECK + LOOK_FOR_PRESENT  the cell has become a key further on: a false miss
 *   NO_GEN_CHECK + LOOK_FOR_ABSENT   order of one filling, tag of the next: a key nobody inserted
 *   NO_MISS_CHECK       hops are checked, the verdict "absent" is not
 *   NEXT_TOO_LATE       a cell is linked while it still has the next link of its former life
 *   EMPTY_ENTRY_IS_END  the entry behind a marker that was taken back is read as the list's end
 *   MARKER_FIRST        (checked for termination) the marker is linked before its entry is stored:
 *                       a reader turns round and round for as long as the writer is stopped
 *   WITNESS             not a bug: asserts that no reader ever has to start again
 */

#ifndef OPERATIONS
#define OPERATIONS 4
#endif

#define BUCKETS 4
#define CELLS   3
#define PRESENT 0                   /* cell of the key that is present throughout; 1 and 2 change */

/* Every word that links: entries of the directory, then the next links of the cells. */
byte word[BUCKETS + CELLS];
#define NEXT(cell) (BUCKETS + (cell))

#define LINK(cell)       (((cell) + 1) * 16 + generation[cell])
#define CELL(link)       ((link) / 16 - 1)
#define GENERATION(link) ((link) % 16)
#define MARKER(b)        (240 + (b))
#define BUCKET(link)     ((link) - 240)
#define IS_MARKER(link)  (240 <= (link) && (link) < 240 + BUCKETS)
#define LIST_END         255        /* 0 is no link at all */

byte generation[CELLS];
byte order[CELLS];
bit  tag[CELLS];
byte size = 2;                      /* buckets in use; only bucket 0 is set up at first */

#define BUCKET_ORDER(b) (b == 0 -> 0 : (b == 1 -> 4 : (b == 2 -> 2 : 6)))
#define PARENT(b)       (b >= 2 -> b - 2 : 0)

/* The keys that come and go: (order, tag) = (1, 0), (5, 1), (7, 0). */
#define KEYS 3
#define ORDER_OF(k) (k == 0 -> 1 : (k == 1 -> 5 : 7))
#define TAG_OF(k)   (k == 1)
#define HASH_OF(an_order) (an_order == 1 -> 0 : (an_order == 5 -> 1 : 3))

mtype = { free, filled, linked };
mtype state[CELLS] = free;          /* known to the writer */
byte key_in[CELLS];

/* Ghosts: where each key is, and, of the one that is looked for, if it was there all the time. */
#define OUT      0
#define CHANGING 1
#define IN       2
byte whereabouts[KEYS] = OUT;
byte target = 255;
bit  stays_in, stays_out;

/* Under the lock: on from the word `before`, to the one whose link leads above the order. */
inline advance(an_order, stop)
{
	do
	:: word[before] == LIST_END || word[before] == 0 || word[before] == stop -> break
	:: else ->
		if
		:: IS_MARKER(word[before]) ->
			if
			:: BUCKET_ORDER(BUCKET(word[before])) > an_order -> break
			:: else -> before = BUCKET(word[before])
			fi
		:: else ->
			if
			:: order[CELL(word[before])] > an_order -> break
			:: else -> before = NEXT(CELL(word[before]))
			fi
		fi
	od
}

/* From the entry `before` to that of its nearest ancestor that is set up, or stays. */
inline nearest()
{
	do
	:: before != 0 && word[before] == 0 -> before = PARENT(before)
	:: else -> break
	od
}

/* A journalled store; the writer may die after it. */
inline change(w, value)
{
	d_step {
		journal_word[count] = w;
		journal_old[count] = word[w];
		count++;
		word[w] = value
	};
	if
	:: true
	:: true -> goto undo
	fi
}

#define MAY(condition) (operations < OPERATIONS && (condition))

proctype writer()
{
	byte operations, c, k, b, before, old;
	byte journal_word[3], journal_old[3];
	byte count;
end:
	do
	:: atomic { MAY(size < BUCKETS) -> operations++; size = size * 2 }

	:: atomic {                                         /* fill a cell, and insert it */
			if
			:: MAY(state[1] != linked) -> c = 1
			:: MAY(state[1] == linked && state[2] != linked) -> c = 2
			fi;
			if
			:: whereabouts[0] == OUT -> k = 0
			:: whereabouts[1] == OUT -> k = 1
			:: whereabouts[2] == OUT -> k = 2
			fi;
			operations++
		};
		generation[c]++;
		order[c] = ORDER_OF(k);
		tag[c] = TAG_OF(k);
#ifndef NEXT_TOO_LATE
		word[NEXT(c)] = 0;
#endif
		d_step { state[c] = filled; key_in[c] = k };
		goto insert

	:: atomic {                                         /* insert again what was undone */
			if
			:: MAY(state[1] == filled && whereabouts[key_in[1]] == OUT) -> c = 1
			:: MAY(state[2] == filled && whereabouts[key_in[2]] == OUT) -> c = 2
			fi;
			k = key_in[c];
			operations++
		};
insert:
		b = HASH_OF(order[c]) % size;
		if
		:: word[b] == 0 ->                              /* set the bucket up */
			d_step { before = PARENT(b); nearest(); advance(BUCKET_ORDER(b), 0) };
			old = word[before];
#ifdef MARKER_FIRST
			change(before, MARKER(b));
			change(b, old)
#else
			change(b, old);
			change(before, MARKER(b))
#endif
		:: word[b] != 0
		fi;
		d_step { before = b; advance(order[c], 0) };
		d_step { whereabouts[k] = CHANGING; stays_out = stays_out && target != k };
		old = word[before];
#ifdef NEXT_TOO_LATE
		change(before, LINK(c));
		word[NEXT(c)] = old;
#else
		word[NEXT(c)] = old;
		change(before, LINK(c));
#endif
		d_step { whereabouts[k] = IN; state[c] = linked };
		goto done

	:: atomic {                                         /* remove */
			if
			:: MAY(state[1] == linked) -> c = 1
			:: MAY(state[2] == linked) -> c = 2
			fi;
			k = key_in[c];
			operations++
		};
		d_step { before = HASH_OF(order[c]) % size; nearest(); advance(order[c], LINK(c)) };
		d_step { whereabouts[k] = CHANGING; stays_in = stays_in && target != k };
		change(before, word[NEXT(c)]);
		d_step { whereabouts[k] = OUT; state[c] = free };
		goto done
	od;

undo:
	do
	:: d_step { count > 0 ->
			count--;
			word[journal_word[count]] = journal_old[count];
			journal_word[count] = 0;
			journal_old[count] = 0
		}
	:: count == 0 -> break
	od;
	if
	:: state[c] == filled -> whereabouts[k] = OUT
	:: state[c] == linked -> whereabouts[k] = IN
	fi;
done:
	atomic {
		c = 0; k = 0; b = 0; before = 0; old = 0; count = 0;
		journal_word[0] = 0; journal_word[1] = 0; journal_word[2] = 0;
		journal_old[0] = 0; journal_old[1] = 0; journal_old[2] = 0
	};
	goto end
}

#ifdef NO_GEN_CHECK
#define STILL(link) true
#else
#define STILL(link) (generation[CELL(link)] == GENERATION(link))
#endif
#ifdef WITNESS
#define AGAIN assert(false)
#else
#define AGAIN goto again
#endif

proctype reader()
{
	byte my_hash, my_order, at, bucket, here, next;
	bit my_tag, match, found;

	if                                                  /* what it looks for */
#ifndef LOOK_FOR_ABSENT
	:: d_step { my_hash = 1; my_order = 5; stays_in = 1 }                   /* always there */
#endif
#ifndef LOOK_FOR_PRESENT
	:: d_step { my_hash = 3; my_order = 7; my_tag = 1; stays_out = 1 }      /* never there */
#endif
#if !defined LOOK_FOR_PRESENT && !defined LOOK_FOR_ABSENT
	:: d_step { target = 1; my_hash = 1; my_order = 5; my_tag = 1;
			stays_in = (whereabouts[1] == IN); stays_out = (whereabouts[1] == OUT) }
	:: d_step { target = 2; my_hash = 3; my_order = 7;
			stays_in = (whereabouts[2] == IN); stays_out = (whereabouts[2] == OUT) }
#endif
	fi;
again:
	atomic { here = 0; next = 0; match = 0; bucket = my_hash % size };
	do
	:: d_step { word[bucket] != 0 -> at = word[bucket]; bucket = 0 } -> break
	:: d_step { word[bucket] == 0 -> bucket = PARENT(bucket) }
	od;
	do
	:: at == LIST_END -> break                          /* absent */
	:: at != LIST_END && IS_MARKER(at) && BUCKET_ORDER(BUCKET(at)) > my_order -> break
	:: at != LIST_END && IS_MARKER(at) && BUCKET_ORDER(BUCKET(at)) <= my_order ->
		at = word[BUCKET(at)];
		if
#ifdef EMPTY_ENTRY_IS_END
		:: at == 0 -> break
#else
		:: at == 0 -> AGAIN
#endif
		:: at != 0
		fi
	:: at < MARKER(0) ->
		here = order[CELL(at)];
#ifdef NO_MISS_CHECK
		if
		:: here > my_order -> break
		:: here <= my_order
		fi;
#endif
		next = word[NEXT(CELL(at))];
		match = (here == my_order && tag[CELL(at)] == my_tag);
		if
		:: !STILL(at) -> AGAIN
		:: STILL(at) && match -> found = 1; break
		:: STILL(at) && here > my_order -> break        /* absent */
		:: STILL(at) && !match && here <= my_order ->
			d_step { at = next; next = 0; here = 0 };
			if
			:: at == 0 -> AGAIN
			:: at != 0
			fi
		fi
	od;
	assert(!(stays_in && !found));
	assert(!(stays_out && found))
}

init {
	atomic {
		order[PRESENT] = 5;
		word[NEXT(PRESENT)] = LIST_END;
		word[0] = LINK(PRESENT);
		run writer(); run reader()
	}
}
