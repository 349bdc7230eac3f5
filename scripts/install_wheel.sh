#!/usr/bin/env bash
# Builds the wheel and installs it into .venv, unless nothing that goes into it has changed since.
#
# Environment: JOBS   compilers at a time (default: 2)
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.stamps/wheel
inputs=(CMakeLists.txt cmake pyproject.toml scripts/install_wheel.sh
  shm worker coordinator bindings tools)

# Folders are looked at too: their time changes when a file in them is removed.
if [[ -e "$stamp" ]]; then
  changed="$(find "${inputs[@]}" -name __pycache__ -prune -o -newer "$stamp" -print -quit)"
  if [[ -z "$changed" ]]; then
    echo "wheel: up to date"
    exit 0
  fi
fi

# A file that is saved while the wheel is being built must count as changed the next time.
mkdir -p .venv/.stamps
touch .venv/.stamps/wheel_started
export CMAKE_BUILD_PARALLEL_LEVEL="${JOBS:-2}"
# Without isolation the build uses .venv's own pybind11, whose place does not change, so that the
# build folder stays valid. The symbols are kept for debuggers.
.venv/bin/python -m pip install --disable-pip-version-check --no-deps --force-reinstall \
  --no-build-isolation \
  --config-settings=cmake.define.THEUS_WERROR=ON --config-settings=install.strip=false .
mv .venv/.stamps/wheel_started "$stamp"
