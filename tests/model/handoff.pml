/*
 * handoff.pml: flat combining, and who wakes whom.
 *
 * WHAT IT MODELS
 * Every worker has a slot with a request and an answer word, a bit in the `waiting` word, and a
 * word `sleeping`.
 *
 *   worker    store the request (seq_cst); try the lock. Until it is answered: set its bit, try the
 *             lock again, then sleep: sleeping = 1 (seq_cst), and a futex wait on the answer word,
 *             which the kernel enters only if the word is still what it was; for at most 10 ms.
 *   combiner  whoever got the lock: serve its own request; take all bits (exchange with 0) and
 *             serve these slots; unlock; seq_cst; if any bit is set, try the lock again. If that
 *             fails, somebody else has the lock and will look in his turn.
 *   serve     if the request differs from the answer: store the answer (seq_cst), then look at
 *             `sleeping` and wake.
 *
 * The simple form without bits (REQUEST_WORDS; what the coordinator does) serves all slots, and
 * after unlocking looks at all request words.
 *
 * Mirrors worker/submit.cpp `submit_transaction`, `await_answer`, `combine`; shm/arbiter.cpp
 * `drain`, `answer`, `anyone_waiting`; shm/lock.cpp `ArbitrationLock`.
 *
 * WHY IT HOLDS. A worker sets its bit and then fails to get the lock; a combiner frees the lock and
 * then looks at the bits: one of them sees what the other stored. The same between `sleeping` and
 * the answer. A death takes away the combiner that would have looked, or woken: then only the
 * worker's own clock helps. (So it does where the code gives up: it looks at most 16 times in a row
 * and serves at most 64 others per hold of the lock. The model has neither bound, and no turns.)
 *
 * MEMORY. Requests, `sleeping` and the freeing of the lock go through a store buffer of one entry
 * per worker, as on x86-TSO; read-modify-writes wait until it is empty. Trying the lock is a load
 * that gives up at once if it is held, then an exchange. Answers are stored directly.
 *
 * TIMEOUTS AND DEATHS
 *   by default    there are none: a sleeper can only be woken.
 *   LATE_TIMEOUT  10 ms are over when nothing else can happen (Promela's `timeout`).
 *   EARLY_TIMEOUT 10 ms may be over at any moment.
 *   DEATH         whoever lives may be killed at any step, DEATHS times; the robust lock passes on,
 *                 the request stays. What has to be done before the next owner goes to work
 *                 (repair) is commit_death.pml.
 *
 * ASSERTED
 *   - no invalid end state: nobody who lives sleeps for ever while the lock is free;
 *   - each request is answered exactly once, in order;
 *   - without EARLY_TIMEOUT there is no infinite run (with -DNP and pan -l).
 *
 * MUST PASS: (none); REQUEST_WORDS; each also with DEATH and LATE_TIMEOUT or EARLY_TIMEOUT.
 *
 * VARIANTS THAT MUST FAIL
 *   NO_RESCAN             a bit that was set after the bits had been taken is never looked at
 *   NO_SECOND_TRY         the combiner had unlocked and looked just before the bit was set
 *   NO_UNLOCK_FENCE       the freed lock sits in the buffer while the bits are looked at
 *   REQUEST_WORDS + NO_RESCAN, NO_UNLOCK_FENCE   the same with request words
 *   REQUEST_WORDS + NO_REQUEST_FENCE   the request sits in the buffer while the lock is found held
 *   BITS_CLEARED_LATE     a bit that was set between reading and clearing is lost
 *   NO_SLEEPING_FENCE     `sleeping` sits in the buffer while the answer word is looked at
 *   SLEEPING_SEEN_FIRST   the combiner looks at `sleeping` before it stores the answer
 *   NO_FUTEX_CHECK        sleeping without looking at the word: the wake-up came before
 *   DEATH (no timeout)    killed between answer and wake-up, or before looking at the bits
 */

#ifndef WORKERS
#define WORKERS 3
#endif
#ifndef REQUESTS
#define REQUESTS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif

#define FREE 0
#define LOCK WORKERS                    /* address of the lock word; below it the request words */
#define SLEEPING(w) (WORKERS + 1 + (w))
byte word[2 * WORKERS + 1];
chan buffer[WORKERS] = [1] of { byte, byte };
byte waiting;
byte answer[WORKERS];
bit  asleep[WORKERS];                   /* in the kernel */
bit  over[WORKERS];                     /* the process has ended or was killed */
#ifdef DEATH
chan kill[WORKERS] = [0] of { bit };
#endif

proctype store_buffer(byte owner)
{
	byte address, value;
end:
	do
	:: d_step { buffer[owner]?address, value -> word[address] = value; address = 0; value = 0 }
	od
}

/* -- the combiner; `slot`, `request`, `bits`, `wake` are its locals -------------------------- */
inline serve()
{
	request = word[slot];
	if
	:: request != answer[slot] ->
#ifdef SLEEPING_SEEN_FIRST
		wake = word[SLEEPING(slot)];
#endif
		d_step { assert(request == answer[slot] + 1); answer[slot] = request };
#ifndef SLEEPING_SEEN_FIRST
		wake = word[SLEEPING(slot)];
#endif
		if
		:: wake -> d_step { asleep[slot] = 0; wake = 0 }
		:: !wake
		fi
	:: request == answer[slot]
	fi
}

#ifdef REQUEST_WORDS
inline drain()
{
	slot = 0;
	do
	:: slot < WORKERS -> serve(); slot++
	:: slot == WORKERS -> break
	od;
	atomic { slot = 0; request = 0 }
}
#else
inline drain()
{
	if                                                  /* itself; it is awake */
	:: d_step { word[me] != answer[me] ->
			assert(word[me] == answer[me] + 1);
			answer[me] = word[me]
		}
	:: word[me] == answer[me]
	fi;
#ifdef BITS_CLEARED_LATE
	bits = waiting;
#else
	atomic { empty(buffer[me]) -> bits = waiting; waiting = 0 };
#endif
	slot = 0;
	do
	:: slot < WORKERS && (bits & (1 << slot)) -> serve(); slot++
	:: slot < WORKERS && !(bits & (1 << slot)) -> slot++
	:: slot == WORKERS -> break
	od;
#ifdef BITS_CLEARED_LATE
	waiting = 0;
#endif
	atomic { slot = 0; request = 0; bits = 0 }
}
#endif

#ifdef REQUEST_WORDS
inline look_again()
{
	slot = 0;
	do
	:: slot < WORKERS && word[slot] != answer[slot] -> somebody = 1; break
	:: slot < WORKERS && word[slot] == answer[slot] -> slot++
	:: slot == WORKERS -> break
	od;
	slot = 0
}
#else
inline look_again()
{
	somebody = (waiting != 0)
}
#endif

/* -- the worker ------------------------------------------------------------------------------ */
inline sleep()
{
	before = answer[me];
	buffer[me]!SLEEPING(me), 1;
#ifndef NO_SLEEPING_FENCE
	empty(buffer[me]);
#endif
#ifdef NO_FUTEX_CHECK
	if
	:: before != mine -> asleep[me] = 1
	:: before == mine
	fi;
#else
	if
	:: atomic { before != mine && answer[me] == before -> asleep[me] = 1 }
	:: before == mine || answer[me] != before
	fi;
#endif
	if
	:: !asleep[me]
#ifdef LATE_TIMEOUT
	:: timeout -> asleep[me] = 0
#endif
#ifdef EARLY_TIMEOUT
	:: asleep[me] -> asleep[me] = 0
#endif
	fi;
	before = 0;
	buffer[me]!SLEEPING(me), 0
}

proctype worker(byte me)
{
	byte mine;                          /* the request in flight */
	byte slot, request, bits, before;
	bit wake, somebody, flagged;

	{
		do
		:: mine < REQUESTS ->
			mine++;
			buffer[me]!me, mine;
#ifndef NO_REQUEST_FENCE
			empty(buffer[me]);
#endif
try_lock:
			if
			:: word[LOCK] != FREE
			:: word[LOCK] == FREE ->
				if
				:: empty(buffer[me]) && word[LOCK] != FREE
				:: atomic { empty(buffer[me]) && word[LOCK] == FREE -> word[LOCK] = me + 1 };
					drain();
					buffer[me]!LOCK, FREE;
#ifndef NO_UNLOCK_FENCE
					empty(buffer[me]);
#endif
#ifndef NO_RESCAN
					look_again();
					if
					:: somebody -> somebody = 0; empty(buffer[me]); goto try_lock
					:: !somebody
					fi
#endif
				fi
			fi;
			if
			:: answer[me] == mine -> flagged = 0
#ifndef REQUEST_WORDS
			:: answer[me] != mine && !flagged ->
				atomic { empty(buffer[me]) -> waiting = waiting | (1 << me); flagged = 1 };
#ifdef NO_SECOND_TRY
				sleep();
#endif
				goto try_lock
			:: answer[me] != mine && flagged ->
#else
			:: answer[me] != mine ->
#endif
				sleep();
				flagged = 0;
				if
				:: answer[me] == mine
				:: answer[me] != mine -> goto try_lock
				fi
			fi
		:: atomic { mine == REQUESTS -> over[me] = 1 } -> break
		od
	}
#ifdef DEATH
	unless { atomic {
		kill[me]?_ ->
		mine = 0; slot = 0; request = 0; bits = 0; before = 0;
		wake = 0; somebody = 0; flagged = 0; asleep[me] = 0
	} };
#endif
ended:
	skip
}

#ifdef DEATH
#define MORTAL(p) (deaths < DEATHS && !over[p] && empty(buffer[p]))

proctype kernel()
{
	byte deaths, victim;
end:
	do
	:: atomic {
		if
		:: MORTAL(0) -> victim = 0
		:: MORTAL(1) -> victim = 1
#if WORKERS > 2
		:: MORTAL(2) -> victim = 2
#endif
		fi;
		if
		:: word[LOCK] == victim + 1 -> word[LOCK] = FREE
		:: else
		fi;
		deaths++;
		over[victim] = 1;
		kill[victim]!0;
		victim = 0
		}
	od
}
#endif

init {
	byte i;
	atomic {
		for (i : 0 .. WORKERS - 1) { run worker(i); run store_buffer(i) }
#ifdef DEATH
		run kernel()
#endif
	}
}
