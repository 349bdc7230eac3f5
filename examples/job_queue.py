"""A job queue: producers, blocking consumers and results, though a consumer is killed.

Each job is to count the prime numbers in a range. Producers put jobs into the queue and sleep while
it is full; consumers sleep while it is empty. Nobody polls: `ctx.retry()` gives up a transaction,
and `engine.run` makes it again as soon as something changes that it had read.

A consumer takes a job in one transaction, which notes who has it, counts outside of any, and hands
the result in by another one. So when one is killed with SIGKILL in the middle, the state says what
it had in hand; that goes back into the queue, and is done by another. At the end every job must
have been done exactly once, and all results must be those of a sieve in this process.

    python examples/job_queue.py
    python examples/job_queue.py --careless     # forgets the dead consumer's job: the check fails

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

import theus

QUEUE_ROOM = 20  # jobs that wait at once; producers sleep while there are so many
PATIENCE_S = 30.0  # how long the parent waits for a consumer to be at work

Crew = dict[int, BaseProcess]  # by pid


# --- transactions: each happens wholly or not at all, in a process that may die at any moment


def put(ctx: theus.ProcessContext, job: int) -> None:
    if len(ctx.waiting) >= QUEUE_ROOM:
        ctx.retry()
    ctx.waiting[job] = True


def take(ctx: theus.ProcessContext, pid: int) -> int | None:
    """The job that has waited longest, or None when there will be no more."""
    for job in ctx.waiting:
        del ctx.waiting[job]
        ctx.in_hand[job] = pid
        return int(job)
    if ctx.open or ctx.in_hand:  # a job in somebody's hands may come back
        ctx.retry()
    return None


def hand_in(ctx: theus.ProcessContext, job: int, pid: int, result: int) -> None:
    del ctx.in_hand[job]
    ctx.results[job] = result
    ctx.append(("done_by", pid), job)


def somebody_at_work(ctx: theus.ProcessContext) -> int:
    for pid in ctx.in_hand.values():
        return int(pid)
    ctx.retry()


def give_back(ctx: theus.ProcessContext, pid: int, careless: bool) -> list[int]:
    """What a dead consumer had in hand waits again."""
    jobs = [job for job, holder in ctx.in_hand.items() if holder == pid]
    for job in jobs:
        del ctx.in_hand[job]
        if not careless:
            ctx.waiting[job] = True
    return jobs


# --- processes


def produce(engine: theus.Engine, jobs: Iterable[int]) -> None:
    for job in jobs:
        engine.run(put, job)


def consume(engine: theus.Engine, size: int) -> None:
    pid = os.getpid()
    while (job := engine.run(take, pid)) is not None:
        engine.run(hand_in, job, pid, count_primes(job * size, (job + 1) * size))


def count_primes(start: int, stop: int) -> int:
    return sum(
        all(n % divisor for divisor in range(2, int(n**0.5) + 1))
        for n in range(max(start, 2), stop)
    )


# --- the parent


def start_consumer(engine: theus.Engine, crew: Crew, size: int) -> None:
    consumer = multiprocessing.Process(target=consume, args=(engine, size), daemon=True)
    consumer.start()
    assert consumer.pid is not None
    crew[consumer.pid] = consumer


def kill_one_at_work(engine: theus.Engine, crew: Crew, size: int, careless: bool) -> int:
    """Kills consumers, and starts others in their place, until one had a job in hand."""
    while True:
        pid = engine.run(somebody_at_work, timeout=PATIENCE_S)
        victim = crew.pop(pid)
        victim.kill()
        victim.join()
        jobs = engine.run(give_back, pid, careless)
        start_consumer(engine, crew, size)
        if jobs:
            print(f"killed consumer {pid} while it was at job {jobs[0]}")
            return pid


def mistakes(state: theus.State, jobs: int, size: int) -> Iterable[str]:
    times = Counter(job for done in state["done_by"].values() for job in done)
    for job in range(jobs):
        if times[job] != 1:
            yield f"job {job} was done {times[job]} times"
    sieve = bytearray([0, 0]) + bytearray([1]) * (jobs * size - 2)
    for n in range(2, int(len(sieve) ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(sieve[n * n :: n]))
    right = {job: sum(sieve[job * size : (job + 1) * size]) for job in range(jobs)}
    if state["results"] != right:
        yield f"{sum(state['results'].values())} primes were found, not {sum(sieve)}, or elsewhere"
    for name in ("waiting", "in_hand"):
        if state[name]:
            yield f"{name} is not empty: {state[name]}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=200, metavar="N")
    parser.add_argument("--size", type=int, default=1000, metavar="N", help="numbers in each job")
    parser.add_argument("--consumers", type=int, default=3, metavar="N")
    parser.add_argument("--producers", type=int, default=2, metavar="N")
    parser.add_argument("--careless", action="store_true", help="forget what the dead had in hand")
    arguments = parser.parse_args()
    if min(arguments.jobs, arguments.size, arguments.consumers, arguments.producers) < 1:
        parser.error("all numbers must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    jobs, size = arguments.jobs, arguments.size
    initial = {"waiting": {}, "in_hand": {}, "results": {}, "done_by": {}, "open": True}
    with theus.open(initial=initial) as engine:
        crew: Crew = {}
        for _ in range(arguments.consumers):
            start_consumer(engine, crew, size)
        producers = [
            multiprocessing.Process(
                target=produce, args=(engine, range(first, jobs, arguments.producers)), daemon=True
            )
            for first in range(arguments.producers)
        ]
        for producer in producers:
            producer.start()
        kill_one_at_work(engine, crew, size, arguments.careless)
        for producer in producers:
            producer.join()
        engine.write("open", False)  # consumers go home when the queue is empty
        for consumer in crew.values():
            consumer.join()
        state = engine.state

    for pid, done in state["done_by"].items():
        print(f"consumer {pid} did {len(done)} jobs")
    found = list(mistakes(state, jobs, size))
    if any(process.exitcode != 0 for process in [*producers, *crew.values()]):
        found.append("a process has failed")
    for mistake in found:
        print(f"WRONG: {mistake}")
    if not found:
        print(
            f"exactly right: {jobs} jobs, each done once; {sum(state['results'].values())} primes"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
