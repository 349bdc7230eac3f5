#!/usr/bin/env bash
# Runs every check of the project, or the stages that are named, and ends with one line of totals.
# A build that fails ends the run; after a test that fails the other stages still run, so that one
# run shows all there is to see.
#
# Usage: test.sh [STAGE...]   stages: tidy cpp python model clang asan tsan
# Environment: JOBS   compilers and tests at a time (default: 2)
set -euo pipefail
cd "$(dirname "$0")/.."

jobs="${JOBS:-2}"
python=.venv/bin/python
results="$PWD/build/results"
outcomes=()

rm -rf "$results"
mkdir -p "$results"

finish() {
  "$python" scripts/totals.py "$results" "${outcomes[@]}"
}

build() {
  if ! { cmake --preset "$1" && cmake --build --preset "$1" --parallel "$jobs"; }; then
    outcomes+=("$1:failed")
    finish
    exit 1
  fi
}

# record STAGE COMMAND...   runs the command and notes how it ended
record() {
  local stage="$1"
  shift
  if "$@"; then
    outcomes+=("$stage:passed")
  else
    outcomes+=("$stage:failed")
  fi
}

run_ctest() {
  ctest --preset "$1" --parallel "$jobs" --output-junit "$results/$1.xml"
}

run_pytest() {
  # The outer time-out is for a hang that pytest's own cannot end: one inside C++ code.
  timeout --kill-after=10 1200 "$python" -m pytest --junitxml="$results/python.xml"
}

run_model() {
  bash tests/model/run.sh | tee "$results/model.log"
}

run_stage() {
  echo
  echo "==> $1"
  case "$1" in
    tidy)
      record tidy "$python" tests/tidy.py
      ;;
    cpp)
      build release
      record release run_ctest release
      ;;
    python)
      if ! scripts/install_wheel.sh; then
        outcomes+=("wheel:failed")
        finish
        exit 1
      fi
      record python run_pytest
      ;;
    model)
      if [[ -e tests/model/run.sh ]]; then
        record model run_model
      else
        echo "model: skipped, there is no tests/model/run.sh"
      fi
      ;;
    clang)
      # Only its warnings are of interest: the same tests have run with the other compiler.
      if command -v clang++-14 >/dev/null; then
        build clang
        outcomes+=("clang:passed")
      else
        echo "clang: skipped, clang++-14 is not installed"
      fi
      ;;
    asan | tsan)
      build "$1"
      record "$1" run_ctest "$1"
      ;;
    *)
      echo "test.sh: unknown stage $1; stages: tidy cpp python model clang asan tsan" >&2
      exit 2
      ;;
  esac
}

if [[ $# -eq 0 ]]; then
  set -- tidy cpp python model clang asan tsan
fi
for stage in "$@"; do
  run_stage "$stage"
done
finish
