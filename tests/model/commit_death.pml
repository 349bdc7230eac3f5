/*
 * commit_death.pml: a commit with the owner of the lock dying at every step, and its repairer too.
 *
 * WHAT IT MODELS
 * Two workers, each with one slot: a request word, which the worker writes, and an answer word,
 * which lock owners write. A third process, the coordinator, submits nothing and drains. The kernel
 * kills whoever owns the robust lock, at any step, DEATHS times; the next owner gets EOWNERDEAD and
 * repairs first, and may be killed at that in turn. Every store to shared memory is a step.
 *
 *   worker    fill the delta; request = seq; until answer.seq == seq: take the lock and drain.
 *   owner, for a slot with request != answer.seq:
 *     (1) assigned[slot] is for this request, with a version <= clock: answer committed;
 *     (2) else note the slot (working); then refuse it (a conflict): answer refused; or
 *     (3) commit it: journal.count = 0; assigned[slot] = clock + 1; journal.version = clock + 1;
 *         for each word: journal entry, count + 1, store; clock = clock + 1 (the commit); answer
 *         committed. A conflict may show after the first word: restore, count = 0, assigned = 0,
 *         answer refused.
 *   answer    version; deaths = 0; (seq, outcome); assigned = 0
 *   step that is no commit (the grant of an extent): journal.version = infinity, two words through
 *         the journal, count = 0
 *   repair    if journal.version > clock: restore in reverse; count = 0; clear every assigned >
 *         clock; if the dead owner worked on a slot that still waits and was not committed: deaths
 *         + 1, at 2 answer poisoned; working = none; pthread_mutex_consistent; then drain.
 *
 * Mirrors shm/lock.cpp `ArbitrationLock`; shm/journal.cpp `StepJournal::begin`, `set`, `undo`,
 * `repair`; shm/arbiter.cpp `drain`, `serve`, `answer`, `repair`, `grant`; shm/commit.cpp
 * `Committer::decide_message`; worker/submit.cpp `submit_transaction`.
 *
 * THE TAG. `assigned` names the request it was given for. Without it (UNTAGGED_ASSIGNED) an owner
 * that dies between the answer and `assigned = 0` leaves a version <= clock in the slot. The
 * worker, answered, goes on and submits its next delta; the next owner finds request != answer and
 * assigned <= clock, and acknowledges a delta that was never applied. Repair cannot clear it: when
 * the worker has submitted again before repair looks (REPAIR_CLEARS_ANSWERED), it cannot tell an
 * answered delta from one whose owner died just before its answer. Nor does clearing first help
 * (CLEAR_BEFORE_ANSWER): a death between the two applies the delta twice. The tag may share the
 * word (the model's default) or be a word of its own (TAG_WORD, as `assigned_request` in the code):
 * then the old version must be cleared before the new tag is stored.
 *
 * ORDER. A killed process has executed its instructions up to one point and none after it, and what
 * it stored becomes visible. So program order is all that counts for repair, and its stores need
 * protection from the compiler only. Not modelled: readers (pin_reclaim.pml, generation.pml), the
 * wake-up (handoff.pml), deaths of a process without the lock (its slot is drained like any other).
 *
 * ASSERTED
 *   - at every moment the state visible at the clock is whole: both counters show the same, and it
 *     is the number of commits (`observer`);
 *   - no delta is committed twice; a worker told `committed` finds its own delta in the version it
 *     was told, told otherwise it finds it in none; in the end what is committed and not
 *     acknowledged belonged to dead workers, at most one delta each;
 *   - no owner, after repair, finds a half-done grant, or a finished one undone;
 *   - everybody ends (no invalid end state; with -DNP and pan -l: no infinite run at all).
 *
 * MUST PASS: (none): 2 + 1 deltas, 2 deaths, no grant; TAG_WORD; DELTAS_0=1 GRANTS=1, also checked
 *   for termination without the grant.
 *
 * VARIANTS THAT MUST FAIL
 *   WORKER_READS_ASSIGNED  a worker that looks itself sees its version, then a clock raised to it
 *                          by another delta that got the number after an undo
 *   NO_CLEAR_ASSIGNED      the same mistake, made by the next owner
 *   UNTAGGED_ASSIGNED, also with REPAIR_CLEARS_ANSWERED; CLEAR_BEFORE_ANSWER; TAG_WORD with
 *   TAG_BEFORE_CLEAR       see THE TAG
 *   STORE_BEFORE_JOURNAL   a death between leaves a store that nobody knows how to undo
 *   COUNT_BEFORE_ENTRY     a death between has repair restore whatever stood in the entry before
 *   VERSION_BEFORE_COUNT   a death between makes the last commit's entries look like this step's
 *   UNDO_ALWAYS            an acknowledged commit is taken back
 *   NO_UNDO                a torn state stays, and the next commit builds on it
 *   STEP_WITHOUT_END       a finished step without count = 0 is undone by a later repair
 *   ANSWER_BEFORE_VERSION  the worker reads the version of an earlier answer
 *   POISON_COMMITTED       repair poisons a delta without asking whether it was committed
 *   WITNESS                not a bug: asserts that no delta is ever poisoned
 */

#ifndef DELTAS_0
#define DELTAS_0 2                  /* deltas of worker 0 */
#endif
#ifndef DELTAS_1
#define DELTAS_1 1
#endif
#ifndef GRANTS
#define GRANTS 0
#endif
#ifndef DEATHS
#define DEATHS 2
#endif

#define WORKERS      2
#define COORDINATOR  WORKERS        /* process number */
#define PROCESSES    (WORKERS + 1)
#define LAST         (DELTAS_0 + DELTAS_1)
#define DELTAS_OF(w) (w == 0 -> DELTAS_0 : DELTAS_1)
#define INFINITY     255
#define NOBODY       255

#define COMMITTED 1
#define REFUSED   2
#define POISONED  3

/* A sequence number with an outcome, a version or a slot, in one word. */
#define PACK(seq, low) ((seq) * 16 + (low))
#define SEQ(packed)    ((packed) / 16)
#define LOW(packed)    ((packed) % 16)

/* -- shared memory -------------------------------------------------------------------------- */
byte clock;

/* Structural words. 0 and 1: heads of two chains, each a counter; a version names its record.
 * 2 and 3: an extent's owner word and the free list's, which a grant changes together. */
#define WORDS 4
byte word[WORDS];

typedef Chain { byte value[LAST + 1]; byte below[LAST + 1] }
Chain chain[2];

byte journal_version, journal_count;
byte journal_word[2], journal_old[2];

byte delta[WORKERS];                /* the submission; its content is its sequence number */
byte request[WORKERS];
byte answer[WORKERS];               /* PACK(seq, outcome) */
byte answer_version[WORKERS];

#ifdef TAG_WORD
byte assigned[WORKERS];             /* a version, 0 for none */
byte assigned_tag[WORKERS];         /* the seq it was given for */
#define ASSIGNED_VERSION(slot) assigned[slot]
#define ASSIGNED_SEQ(slot)     assigned_tag[slot]
#else
byte assigned[WORKERS];             /* PACK(seq, version), 0 for none */
#define ASSIGNED_VERSION(slot) LOW(assigned[slot])
#define ASSIGNED_SEQ(slot)     SEQ(assigned[slot])
#endif

byte working;                       /* slot + 1 that the owner works on, 0 for none */
byte deaths_on[WORKERS];            /* owners that died at this slot's request */

byte lock_owner = NOBODY;
bit  owner_died;                    /* EOWNERDEAD until pthread_mutex_consistent */
chan kill[PROCESSES] = [0] of { bit };

/* -- ghosts: what really happened ----------------------------------------------------------- */
byte committed_as[LAST + 1];        /* PACK(seq, slot) of the delta that a version published */
bit  is_committed[WORKERS * 3];
#define DELTA(slot, seq) ((seq) * WORKERS + (slot) - WORKERS)
byte acknowledged;
byte granted;                       /* what the extent words show after the last finished grant */
byte grants_left = GRANTS;
byte workers_ended, workers_killed;

/* What a reader at the clock sees of counter w. */
#define VISIBLE(w) chain[w].value[(word[w] <= clock -> word[w] : chain[w].below[word[w]])]

/* -- the lock owner, and what it keeps in its own memory --------------------------------------- */
#define LOCALS byte slot, seq, old, outcome, undone
#define FORGET slot = 0; seq = 0; old = 0; outcome = 0; undone = 0

inline begin_journal(version)
{
#ifdef VERSION_BEFORE_COUNT
	journal_version = version;
	journal_count = 0
#else
	journal_count = 0;
	journal_version = version
#endif
}

inline change(w, new_value)
{
#ifdef STORE_BEFORE_JOURNAL
	d_step { old = word[w]; word[w] = new_value };
	journal_word[journal_count] = w;
	journal_old[journal_count] = old;
	journal_count++
#else
#ifdef COUNT_BEFORE_ENTRY
	journal_count++;
	journal_word[journal_count - 1] = w;
	journal_old[journal_count - 1] = word[w];
#else
	journal_word[journal_count] = w;
	journal_old[journal_count] = word[w];
	journal_count++;
#endif
	word[w] = new_value
#endif
}

/* The delta brought the record; nothing links to it yet, so one step is enough. */
inline fill_record(w, version)
{
	d_step {
		chain[w].value[version] = chain[w].value[word[w]] + 1;
		chain[w].below[version] = word[w]
	}
}

inline assign(version)
{
#ifdef TAG_WORD
#ifndef TAG_BEFORE_CLEAR
	assigned[slot] = 0;
#endif
	assigned_tag[slot] = seq;
	assigned[slot] = version
#else
	assigned[slot] = PACK(seq, version)
#endif
}

/* `seq` is the request that is answered. */
inline give_answer(outcome, version)
{
#ifdef CLEAR_BEFORE_ANSWER
	assigned[slot] = 0;
#endif
#ifdef ANSWER_BEFORE_VERSION
	answer[slot] = PACK(seq, outcome);
	answer_version[slot] = version;
#else
	answer_version[slot] = version;
	deaths_on[slot] = 0;
	answer[slot] = PACK(seq, outcome);
#endif
	assigned[slot] = 0
}

inline restore()
{
	undone = journal_count;
	do
	:: undone > 0 -> undone--; word[journal_word[undone]] = journal_old[undone]
	:: undone == 0 -> break
	od;
	journal_count = 0
}

#ifdef UNTAGGED_ASSIGNED
#define FOR_THIS_REQUEST true
#else
#define FOR_THIS_REQUEST (ASSIGNED_SEQ(slot) == seq)
#endif
#define WAS_PUBLISHED (ASSIGNED_VERSION(slot) != 0 && ASSIGNED_VERSION(slot) <= clock \
	&& FOR_THIS_REQUEST)

inline serve()
{
	seq = request[slot];
	if
	:: SEQ(answer[slot]) == seq
	:: SEQ(answer[slot]) != seq ->
		assert(delta[slot] == seq);                     /* no slot is reused before its answer */
		if
		:: WAS_PUBLISHED -> give_answer(COMMITTED, ASSIGNED_VERSION(slot))
		:: else ->
			working = slot + 1;
			journal_count = 0;
			if
			:: true -> outcome = REFUSED                /* a check failed */
			:: true ->
				assign(clock + 1);
				begin_journal(clock + 1);
				fill_record(0, clock + 1);
				change(0, clock + 1);
				if
				:: true ->                              /* an operation failed */
					restore();
					assigned[slot] = 0;
					outcome = REFUSED
				:: true ->
					fill_record(1, clock + 1);
					change(1, clock + 1);
					d_step {
						clock++;                        /* the commit */
						assert(!is_committed[DELTA(slot, seq)]);
						is_committed[DELTA(slot, seq)] = 1;
						committed_as[clock] = PACK(seq, slot);
						outcome = COMMITTED
					}
				fi
			fi;
			give_answer(outcome, clock);
			d_step { working = 0; outcome = 0 }
		fi
	fi
}

#if GRANTS > 0
inline grant()
{
	begin_journal(INFINITY);
	change(2, 1 - granted);
	change(3, 1 - granted);
	d_step {
#ifndef STEP_WITHOUT_END
		journal_count = 0;
#endif
		granted = 1 - granted;
		grants_left--
	}
}
#endif

#ifdef UNDO_ALWAYS
#define MUST_UNDO (journal_count > 0)
#else
#ifdef NO_UNDO
#define MUST_UNDO false
#else
#define MUST_UNDO (journal_version > clock)
#endif
#endif

#ifdef POISON_COMMITTED
#define WAS_COMMITTED false
#else
#define WAS_COMMITTED WAS_PUBLISHED
#endif

inline repair()
{
	if
	:: MUST_UNDO -> restore()
	:: else -> journal_count = 0
	fi;
#ifndef NO_CLEAR_ASSIGNED
	slot = 0;
	do
	:: slot < WORKERS ->
		if
		:: ASSIGNED_VERSION(slot) > clock -> assigned[slot] = 0
#ifdef REPAIR_CLEARS_ANSWERED
		:: request[slot] == SEQ(answer[slot]) -> assigned[slot] = 0
#endif
		:: else
		fi;
		slot++
	:: slot == WORKERS -> break
	od;
#endif
	if
	:: working != 0 ->
		slot = working - 1;
		seq = request[slot];
		if
		:: SEQ(answer[slot]) != seq && !WAS_COMMITTED ->
			deaths_on[slot]++;
			if
			:: deaths_on[slot] >= 2 -> give_answer(POISONED, 0)
			:: deaths_on[slot] < 2
			fi
		:: else
		fi;
		working = 0
	:: working == 0
	fi
}

inline hold()
{
	if
	:: owner_died -> repair(); owner_died = 0
	:: !owner_died
	fi;
	assert(word[2] == granted && word[3] == granted);
#if GRANTS > 0
	if
	:: grants_left > 0 -> grant()
	:: true
	fi;
#endif
	slot = 0;
	do
	:: slot < WORKERS -> serve(); slot++
	:: d_step { slot == WORKERS -> FORGET } -> break
	od;
	lock_owner = NOBODY
}

/* -- processes ------------------------------------------------------------------------------ */
proctype worker(byte me)
{
	LOCALS;
	byte mine;                      /* sequence number of the delta in flight */
	byte version;

	{
		do
		:: mine < DELTAS_OF(me) ->
			mine++;
			delta[me] = mine;
			request[me] = mine;
			do
			:: SEQ(answer[me]) == mine -> break
			:: SEQ(answer[me]) != mine ->
				atomic { lock_owner == NOBODY -> lock_owner = me };
				hold()
#ifdef WORKER_READS_ASSIGNED
			:: ASSIGNED_VERSION(me) != 0 && ASSIGNED_SEQ(me) == mine ->
				version = ASSIGNED_VERSION(me);
				if
				:: version <= clock -> assert(committed_as[version] == PACK(mine, me))
				:: else
				fi
#endif
			od;
			if
			:: LOW(answer[me]) == COMMITTED ->
				version = answer_version[me];
				assert(committed_as[version] == PACK(mine, me));
				acknowledged++
			:: LOW(answer[me]) != COMMITTED ->
				assert(!is_committed[DELTA(me, mine)]);
#ifdef WITNESS
				assert(LOW(answer[me]) != POISONED)
#endif
			fi;
			version = 0
		:: mine == DELTAS_OF(me) -> break
		od
	}
	unless { atomic { kill[me]?_ -> workers_killed++; FORGET; mine = 0; version = 0 } };
	workers_ended++
}

proctype coordinator()
{
	LOCALS;

	{
		do
		:: atomic { lock_owner == NOBODY && workers_ended < WORKERS &&
			(owner_died || SEQ(answer[0]) != request[0] || SEQ(answer[1]) != request[1])
			-> lock_owner = COORDINATOR };
			hold()
		:: workers_ended == WORKERS -> break
		od
	}
	unless { atomic { kill[COORDINATOR]?_ -> FORGET } }
}

/* Kills the owner of the lock; its next step is the death. */
proctype kernel()
{
	byte deaths, victim;
end:
	do
	:: atomic { deaths < DEATHS && lock_owner != NOBODY ->
		deaths++;
		owner_died = 1;
		victim = lock_owner;
		lock_owner = NOBODY;
		kill[victim]!0;
		victim = 0
		}
	od
}

/* Runs only if the state visible at the clock is torn, lost or doubled. */
proctype observer()
{
end:
	atomic { VISIBLE(0) != clock || VISIBLE(1) != clock -> assert(false) }
}

init {
	atomic { run worker(0); run worker(1); run coordinator(); run kernel(); run observer() };
	workers_ended == WORKERS;
	assert(acknowledged <= clock && clock <= acknowledged + workers_killed)
}
