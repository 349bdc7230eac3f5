"""A parameter server: workers train one linear model, whose weights are a shared NumPy array.

Each worker has measurements of its own, which see a window of the features; windows overlap. A
round goes like this: a worker takes the weights (mapped from shared memory, read-only, not copied),
computes the gradient of its window, and adds it to the shared gradient, `ctx.gradient[window] +=`.
Whoever is the last one makes the step, in the same transaction, and begins the next round, for
which the others sleep in `ctx.retry()`.

All numbers are integers, weights in units of 1/1024 and steps by shifting bits, so that no order of
additions changes the result: the same training in this process alone, without anything shared, must
come to the very same weights. They must be near those that the measurements were made with, too.

    python examples/parameter_server.py
    python examples/parameter_server.py --stale     # gradients of old weights: the check fails

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import theus

Array = npt.NDArray[np.int64]

UNIT = 1024  # a weight of 1
ROWS = 256  # measurements of each worker
STEP_BITS = 9  # a step is the gradient divided by 2**9, that is by two times ROWS
PATIENCE_S = 30.0  # how long a worker waits for the others


class Shard(NamedTuple):
    """What one worker has measured: `outputs` at `inputs`, which are the features in `window`."""

    window: slice
    inputs: Array
    outputs: Array

    def gradient(self, weights: Array) -> Array:
        gradient: Array = self.inputs.T @ (self.inputs @ weights[self.window] - self.outputs)
        return gradient


def true_weights(features: int) -> Array:
    return np.random.default_rng(0).integers(-5 * UNIT, 5 * UNIT, features)


def measure(worker: int, workers: int, features: int) -> Shard:
    """The same in every process that asks. The windows of two neighbours overlap by a half."""
    width = 2 * features // (workers + 1)
    start = worker * features // (workers + 1)
    window = slice(start, features if worker == workers - 1 else start + width)
    truth = true_weights(features)[window]
    inputs = np.random.default_rng(worker + 1).integers(-1, 2, (ROWS, len(truth)))
    return Shard(window, inputs, inputs @ truth)


# --- transactions


def pull(ctx: theus.ProcessContext, number: int) -> Array:
    """The weights of this round. What engine.run returns is an array that looks into shared memory
    and stays as it is, whatever others commit."""
    if ctx.round < number:
        ctx.retry()
    weights: Array = ctx.weights
    return weights


def push(
    ctx: theus.ProcessContext, number: int, window: slice, gradient: Array, workers: int
) -> None:
    ctx.gradient[window] += gradient
    ctx.pushed += 1
    if ctx.pushed == workers:
        ctx.weights -= ctx.gradient >> STEP_BITS
        ctx.gradient[:] = 0
        ctx.pushed = 0
        ctx.round = number + 1
    ctx.add("squares", int(gradient @ gradient))


# --- processes


def train(engine: theus.Engine, worker: int, arguments: argparse.Namespace) -> None:
    shard = measure(worker, arguments.workers, arguments.features)
    newest = engine.run(pull, 0)
    for number in range(arguments.rounds):
        previous, newest = newest, engine.run(pull, number, timeout=PATIENCE_S)
        assert not newest.flags.owndata and not newest.flags.writeable, "mapped, and read-only"
        gradient = shard.gradient(previous if arguments.stale else newest)
        engine.run(push, number, shard.window, gradient, arguments.workers)


def train_alone(arguments: argparse.Namespace) -> tuple[Array, int]:
    """Returns the weights and the sum of all squares of gradients."""
    shards = [
        measure(worker, arguments.workers, arguments.features)
        for worker in range(arguments.workers)
    ]
    weights = np.zeros(arguments.features, dtype=np.int64)
    squares = 0
    for _ in range(arguments.rounds):
        gradient = np.zeros_like(weights)
        for shard in shards:
            part = shard.gradient(weights)
            gradient[shard.window] += part
            squares += int(part @ part)
        weights -= gradient >> STEP_BITS
    return weights, squares


# --- the parent


def mistakes(state: theus.State, arguments: argparse.Namespace) -> Iterable[str]:
    weights, squares = train_alone(arguments)
    if state["round"] != arguments.rounds:
        yield f"{state['round']} rounds were made, not {arguments.rounds}"
    if differ := int(np.count_nonzero(state["weights"] != weights)):
        yield f"{differ} of {arguments.features} weights are not those of the training alone"
    if state["squares"] != squares:
        yield f"the gradients' squares add up to {state['squares']}, not to {squares}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=3, metavar="N")
    parser.add_argument("--features", type=int, default=64, metavar="N")
    parser.add_argument("--rounds", type=int, default=100, metavar="N")
    parser.add_argument("--stale", action="store_true", help="compute with weights a round old")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.rounds) < 1 or arguments.features <= arguments.workers:
        parser.error("there must be a worker, a round, and more features than workers")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    zeros = np.zeros(arguments.features, dtype=np.int64)
    initial = {"weights": zeros, "gradient": zeros, "pushed": 0, "round": 0, "squares": 0}
    with theus.open(initial=initial) as engine:
        workers = [
            multiprocessing.Process(target=train, args=(engine, worker, arguments), daemon=True)
            for worker in range(arguments.workers)
        ]
        for process in workers:
            process.start()
        for process in workers:
            process.join()
        state = engine.state

    found = list(mistakes(state, arguments))
    off = int(np.max(np.abs(state["weights"] - true_weights(arguments.features))))
    for mistake in found:
        print(f"WRONG: {mistake}")
    if not found:
        print(
            f"exactly right: {arguments.features} weights after {arguments.rounds} rounds of "
            f"{arguments.workers} workers, all as if trained alone, "
            f"none off by more than {off / UNIT:.3f}"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
