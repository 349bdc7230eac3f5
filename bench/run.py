"""Compares theus with other ways to share changing data between Python processes.

Usage: run.py [--quick] [--json] [--only NAME,...]

All in one run on one machine, in rounds that go from store to store, so that what disturbs the
machine disturbs all of them; medians are printed. Stores that are not installed are skipped by
name. docs/benchmarks.md says what each workload does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from typing import Any

import measure
from stores import STORES
from workloads import WORKLOADS, Unavailable

ARRAY = "array"


@dataclasses.dataclass
class Plan:
    rounds: int
    seconds: float  # of one measurement
    array_bytes: int
    array_times: int


FULL = Plan(rounds=5, seconds=0.8, array_bytes=256 << 20, array_times=5)
QUICK = Plan(rounds=3, seconds=0.15, array_bytes=64 << 20, array_times=3)

# Times of the peer's speed that theus has to reach (the specification's section on budgets).
BUDGETS = [
    ("counter", "lmdb", 2.0),
    ("add", "lmdb", 4.0),
    ("alone", "dict", 1 / 3),
    ("transfers", "lmdb", 5.0),
    ("transfers", "redis", 80.0),
    ("transfers", "manager", 150.0),
    ("rows", "lmdb", 3.0),
    ("rows", "redis", 80.0),
    ("snapshot", "lmdb", 5.0),
]
PUBLISH_OF_COPY = 0.8
SPECIAL_PEERS = {"add": ["theus", "lmdb", "redis"], "alone": ["theus", "lmdb", "dict"]}
READ_MAX_S = 10e-6


def peers_of(workload: str) -> list[str]:
    """Names of the stores that a workload is measured with."""
    return SPECIAL_PEERS.get(workload, [store.name for store in STORES if store.name != "dict"])


@dataclasses.dataclass
class Result:
    workload: str
    store: str
    rounds: list[float]  # operations/s

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


class Run:
    def __init__(self, plan: Plan, only: set[str], quiet: bool) -> None:
        names = {workload.name for workload in WORKLOADS} | {ARRAY}
        stores = {store.name for store in STORES}
        if unknown := only - names - stores:
            known = ", ".join(sorted(names | stores))
            sys.exit(f"run.py: unknown: {', '.join(sorted(unknown))}; there are {known}")
        self.plan, self.quiet = plan, quiet
        self.workloads = only & names or names
        # Nothing can be said about a ratio without theus.
        self.stores = (only & stores | {"theus"}) if only & stores else stores
        self.versions: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.results: list[Result] = []
        self.arrays: dict[str, measure.ArrayTimes] = {}
        self.copy_s = 0.0
        self.failures: list[str] = []

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def open_stores(
        self, stack: contextlib.ExitStack, folder: pathlib.Path, names: list[str]
    ) -> Any:
        opened = []
        for kind in STORES:
            if kind.name not in names or kind.name not in self.stores or kind.name in self.skipped:
                continue
            place = folder / kind.name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            try:
                store = kind(place)
            except Unavailable as error:
                self.skipped[kind.name] = str(error)
                self.say(f"  {kind.name}: skipped: {error}")
                continue
            stack.callback(store.close)
            self.versions[kind.name] = store.version
            opened.append(store)
        return opened

    def compare(self, folder: pathlib.Path) -> None:
        for workload in WORKLOADS:
            if workload.name not in self.workloads:
                continue
            self.say(workload.title)
            with contextlib.ExitStack() as stack:
                stores = self.open_stores(stack, folder, peers_of(workload.name))
                rates: dict[str, list[float]] = {store.name: [] for store in stores}
                operations = dict.fromkeys(rates, 0)
                for number in range(self.plan.rounds):
                    for store in list(stores):
                        try:
                            rate, count = measure.measure(
                                store, workload, number * 1000, self.plan.seconds
                            )
                            rates[store.name].append(rate)
                            operations[store.name] += count
                        except measure.Failed as error:
                            self.fail(workload.name, store.name, error)
                            stores.remove(store)
                for store in stores:
                    try:
                        if store.name != "dict":
                            measure.check(store, workload, operations[store.name])
                        self.results.append(Result(workload.name, store.name, rates[store.name]))
                    except measure.Failed as error:
                        self.fail(workload.name, store.name, error)

    def compare_arrays(self, folder: pathlib.Path) -> None:
        if ARRAY not in self.workloads:
            return
        try:
            import numpy
        except ImportError:
            self.say("the large array: skipped: pip install numpy")
            return
        self.versions["numpy"] = numpy.__version__
        self.say(f"an array of {self.plan.array_bytes >> 20} MiB")
        self.copy_s = measure.warm_copy_s(self.plan.array_bytes, self.plan.array_times)
        with contextlib.ExitStack() as stack:
            for store in self.open_stores(stack, folder, peers_of(ARRAY)):
                try:
                    self.arrays[store.name] = measure.measure_array(
                        store, self.plan.array_bytes, self.plan.array_times
                    )
                except measure.Failed as error:
                    self.fail(ARRAY, store.name, error)

    def fail(self, workload: str, store: str, error: Exception) -> None:
        self.failures.append(f"{workload}, {store}: {error}")
        print(f"run.py: {workload}, {store}: {error}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------------------------- reports

    def rate_of(self, workload: str, store: str) -> float | None:
        found = [r.median for r in self.results if (r.workload, r.store) == (workload, store)]
        return found[0] if found else None

    def ratios(self) -> list[dict[str, Any]]:
        """One entry for each budget that could be measured."""
        entries = []
        for workload, store, budget in BUDGETS:
            ours, theirs = self.rate_of(workload, "theus"), self.rate_of(workload, store)
            if ours is not None and theirs is not None:
                entries.append(entry(workload, store, ours / theirs, budget))
        if "theus" in self.arrays:
            times = self.arrays["theus"]
            speed = self.copy_s / statistics.median(times.publish_s)
            entries.append(entry("array publish", "memcpy", speed, PUBLISH_OF_COPY))
            read_s = statistics.median(times.read_s)
            entries.append(entry("array read", "10 us", READ_MAX_S / read_s, 1.0))
        return entries

    def as_json(self) -> str:
        arrays = {
            name: {
                "publish_s": statistics.median(times.publish_s),
                "read_s": statistics.median(times.read_s),
            }
            for name, times in self.arrays.items()
        }
        report = {
            "machine": machine(),
            "versions": self.versions,
            "skipped": self.skipped,
            "plan": dataclasses.asdict(self.plan),
            "operations_per_s": [
                {
                    "workload": result.workload,
                    "store": result.store,
                    "median": result.median,
                    "rounds": result.rounds,
                }
                for result in self.results
            ],
            "array": {"memcpy_s": self.copy_s, "stores": arrays} if arrays else None,
            "ratios": self.ratios(),
            "failures": self.failures,
        }
        return json.dumps(report, indent=2)

    def as_text(self) -> str:
        lines = [f"{name}: {value}" for name, value in machine().items()]
        lines += [f"{name}: {version}" for name, version in self.versions.items()]
        lines += [f"{name}: skipped: {why}" for name, why in self.skipped.items()]
        plan = self.plan
        lines += [f"{plan.rounds} rounds of {plan.seconds} s each, medians", ""]
        names = [kind.name for kind in STORES if any(r.store == kind.name for r in self.results)]
        if names:
            lines.append(f"{'operations/s':<52}" + "".join(f"{name:>10}" for name in names))
        for workload in WORKLOADS:
            rates = [self.rate_of(workload.name, name) for name in names]
            if any(rate is not None for rate in rates):
                title = f"{workload.name}: {workload.title}"
                lines.append(f"{title:<52}" + "".join(f"{short(rate):>10}" for rate in rates))
        if self.arrays:
            size = f"array of {plan.array_bytes >> 20} MiB"
            lines += ["", f"{size:<52}" + "".join(f"{name:>10}" for name in self.arrays)]
            columns = list(self.arrays.values())
            publish = [duration(statistics.median(times.publish_s)) for times in columns]
            look = [duration(statistics.median(times.read_s)) for times in columns]
            title = f"publish (memcpy: {duration(self.copy_s)})"
            lines.append(f"{title:<52}" + "".join(f"{text:>10}" for text in publish))
            lines.append(
                f"{'first read in another process':<52}" + "".join(f"{t:>10}" for t in look)
            )
        lines += ["", f"{'theus compared with':<32}{'ratio':>8}{'budget':>8}"]
        for found in self.ratios():
            title = f"{found['workload']}, {found['peer']}"
            verdict = "" if found["met"] else "   below"
            lines.append(f"{title:<32}{found['ratio']:>8.2f}{found['budget']:>8.2f}{verdict}")
        return "\n".join(lines + [f"FAILED: {failure}" for failure in self.failures])


def entry(workload: str, peer: str, ratio: float, budget: float) -> dict[str, Any]:
    met = ratio >= budget
    return {"workload": workload, "peer": peer, "ratio": ratio, "budget": budget, "met": met}


def short(rate: float | None) -> str:
    if rate is None:
        return "-"
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= limit:
            return (
                f"{rate / limit:.3g}{unit}" if rate < 999.5 * limit else f"{rate / limit:.0f}{unit}"
            )
    return f"{rate:.0f}"


def duration(seconds: float) -> str:
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= limit:
            return f"{seconds / limit:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": f"{LOAD_BEFORE:.1f} before, {os.getloadavg()[0]:.1f} after",
    }


LOAD_BEFORE = os.getloadavg()[0]
NOISY_LOAD = 0.5


def interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter and rougher (below a minute)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help="workloads and stores to measure"
    )
    arguments = parser.parse_args()
    only = {name for name in arguments.only.split(",") if name}
    run = Run(QUICK if arguments.quick else FULL, only, quiet=arguments.json)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    if LOAD_BEFORE > NOISY_LOAD:
        run.say(f"the machine is not quiet (load {LOAD_BEFORE:.1f}): ratios will be rough")
    ram_disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    try:
        with tempfile.TemporaryDirectory(prefix="theus-bench-", dir=ram_disk) as folder:
            run.compare(pathlib.Path(folder))
            run.compare_arrays(pathlib.Path(folder))
    except KeyboardInterrupt:
        print("run.py: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    print(run.as_json() if arguments.json else run.as_text())
    return 1 if run.failures or not (run.results or run.arrays) else 0


if __name__ == "__main__":
    sys.exit(main())
