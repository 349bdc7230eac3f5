#!/usr/bin/env bash
# Runs the C++ benchmarks, then the Python ones, which compare with other stores.
#
# Usage: bench.sh [ARGUMENT...]   the arguments go to the Python benchmarks
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -x build/release/bench/theus_bench ]]; then
  build/release/bench/theus_bench
fi
if [[ -e bench/run.py ]]; then
  .venv/bin/python bench/run.py "$@"
fi
