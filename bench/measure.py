"""Measuring: worker processes side by side, and the large array from one process to another."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from workloads import Workload

WORKER_TIMEOUT_S = 120
WARM_UP_OPERATIONS = 20
BATCH_MIN_S = 0.002  # looking at the clock must cost nothing

fork = multiprocessing.get_context("fork")
clock = time.perf_counter


class Failed(Exception):
    """A worker failed, or what is in the store afterwards is wrong."""


@contextlib.contextmanager
def running(targets: list[tuple[Callable[..., None], Any]]) -> Iterator[list[Any]]:
    """Runs each target(pipe, *arguments) in a process of its own; yields the pipes' other ends."""
    processes, pipes = [], []
    try:
        for target, arguments in targets:
            ours, theirs = fork.Pipe()
            process = fork.Process(target=target, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        yield pipes
        for process in processes:
            process.join(WORKER_TIMEOUT_S)
            if process.exitcode != 0:
                raise Failed(f"a worker ended with status {process.exitcode}")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def receive(pipe: Any) -> Any:
    """What a worker says next. Failed when it does not."""
    if not pipe.poll(WORKER_TIMEOUT_S):
        raise Failed(f"a worker said nothing for {WORKER_TIMEOUT_S} s")
    try:
        return pipe.recv()
    except EOFError as error:
        raise Failed("a worker has died; what it said is above") from error


@dataclasses.dataclass
class Done:
    operations: int  # all, the warm-up included: for the check
    counted: int
    seconds: float
    problem: str | None = None


def work(pipe: Any, store: Any, workload: Workload, seed: int, seconds: float) -> None:
    client = store.client()
    operation = workload.prepare(client, seed)
    begin = clock()
    for _ in range(WARM_UP_OPERATIONS):
        operation()
    each = (clock() - begin) / WARM_UP_OPERATIONS
    batch = range(max(1, min(10_000, int(BATCH_MIN_S / each))))
    pipe.send("ready")
    pipe.recv()
    counted = 0
    begin = clock()
    end = begin + seconds
    while True:
        for _ in batch:
            operation()
        counted += len(batch)
        now = clock()
        if now >= end:
            break
    done = Done(counted + WARM_UP_OPERATIONS, counted, now - begin)
    if store.name == "dict":
        done.problem = workload.check(client, done.operations)
    pipe.send(done)


def measure(store: Any, workload: Workload, seed: int, seconds: float) -> tuple[float, int]:
    """Returns operations/s of all workers together, and how many operations there were."""
    arguments = [(store, workload, seed + number, seconds) for number in range(workload.workers)]
    with running([(work, each) for each in arguments]) as pipes:
        for pipe in pipes:
            receive(pipe)
        for pipe in pipes:
            pipe.send("go")
        results: list[Done] = [receive(pipe) for pipe in pipes]
    for done in results:
        if done.problem:
            raise Failed(done.problem)
    rate = sum(done.counted / done.seconds for done in results)
    return rate, sum(done.operations for done in results)


def verify(pipe: Any, store: Any, workload: Workload, operations: int) -> None:
    pipe.send(workload.check(store.client(), operations))


def check(store: Any, workload: Workload, operations: int) -> None:
    """Failed when the store does not hold what so many operations must have left. In a process of
    its own, because not every store's connection may be carried through the next fork."""
    with running([(verify, (store, workload, operations))]) as (pipe,):
        problem = receive(pipe)
    if problem:
        raise Failed(problem)


# ------------------------------------------------------------------------------- the large array


@dataclasses.dataclass
class ArrayTimes:
    publish_s: list[float]
    read_s: list[float]  # the first read of each new array, its first and last element included


def publish(pipe: Any, store: Any, array_bytes: int, times: int) -> None:
    import numpy

    client = store.client()
    array = numpy.ones(array_bytes // 8)
    for number in range(times):
        array[0] = array[-1] = number
        begin = clock()
        client.write_array(array)
        pipe.send(clock() - begin)
        pipe.recv()


def look(pipe: Any, store: Any) -> None:
    client = store.client()
    while pipe.recv() == "read":
        begin = clock()
        array = client.read_array()
        ends = float(array[0]), float(array[-1])
        pipe.send((clock() - begin, ends, array.nbytes))
        del array


def measure_array(store: Any, array_bytes: int, times: int) -> ArrayTimes:
    """Publishes an array in one process, over and over, and reads each in another. The first two
    are not counted: the memory of the third is recycled."""
    not_counted = 2
    found = ArrayTimes([], [])
    targets: list[Any] = [(publish, (store, array_bytes, times + not_counted)), (look, (store,))]
    with running(targets) as (publisher, reader):
        for number in range(times + not_counted):
            published_s = receive(publisher)
            reader.send("read")
            read_s, ends, size = receive(reader)
            if ends != (number, number) or size != array_bytes:
                raise Failed(f"array {number} was read as {size} bytes with the ends {ends}")
            if number >= not_counted:
                found.publish_s.append(published_s)
                found.read_s.append(read_s)
            publisher.send("next")
        reader.send("end")
    return found


def warm_copy_s(array_bytes: int, times: int) -> float:
    """Median time to copy an array into memory that has been written before."""
    import numpy

    source = numpy.ones(array_bytes // 8)
    target = numpy.zeros_like(source)
    taken = []
    for _ in range(times + 1):
        begin = clock()
        numpy.copyto(target, source)
        taken.append(clock() - begin)
    return statistics.median(taken[1:])
