"""Prints how many tests passed and failed, stage by stage, and the total in the last line.

Usage: totals.py FOLDER STAGE:OUTCOME...   where an OUTCOME is "passed" or "failed"

A stage's counts come from FOLDER/STAGE.xml (JUnit, written by ctest and pytest) or from the last
"N passed, N failed" in FOLDER/STAGE.log. A stage with neither counts as one check. Exits with 1 if
anything failed, if a stage with a report ran no test, or if no stage ran.
"""

import dataclasses
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

PASSED_FAILED = re.compile(r"(\d+) passed, (\d+) failed")


@dataclasses.dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_junit(path: pathlib.Path) -> Counts:
    """Counts the test cases themselves: the sums in the header differ between the two writers."""
    counts = Counts()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed += 1
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            counts.skipped += 1
        else:
            counts.passed += 1
    return counts


def read_log(path: pathlib.Path) -> Counts:
    found = PASSED_FAILED.findall(path.read_text())
    return Counts(int(found[-1][0]), int(found[-1][1])) if found else Counts()


def count_stage(folder: pathlib.Path, stage: str, outcome: str) -> tuple[Counts, str]:
    """Returns a stage's counts and a remark, which is empty when there is nothing to say."""
    junit, log = folder / f"{stage}.xml", folder / f"{stage}.log"
    if junit.exists():
        counts = read_junit(junit)
    elif log.exists():
        counts = read_log(log)
    elif outcome == "passed":
        counts = Counts(passed=1)
    else:
        counts = Counts()

    remark = ""
    if outcome != "passed" and counts.failed == 0:
        # It failed to build, crashed, or timed out before it could report.
        counts.failed += 1
        remark = " (it failed without naming a test)"
    elif counts.passed + counts.failed == 0:
        counts.failed += 1
        remark = " (it ran no test)"
    return counts, remark


def main(folder: pathlib.Path, outcomes: list[str]) -> int:
    total = Counts()
    print("\n==> totals")
    for item in outcomes:
        stage, _, outcome = item.partition(":")
        counts, remark = count_stage(folder, stage, outcome)
        print(f"  {stage:8} {counts}{remark}")
        total.passed += counts.passed
        total.failed += counts.failed
        total.skipped += counts.skipped
    print(f"total: {total}")
    return 0 if total.failed == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
