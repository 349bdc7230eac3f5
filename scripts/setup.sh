#!/usr/bin/env bash
# Installs what the project needs and is not there yet: Debian packages, and a virtual environment
# in .venv. Quick when nothing is missing.
#
# Usage: setup.sh [bench|format]   adds what the benchmarks, or the formatters, need
# Environment: PYTHON   the interpreter that .venv is made from (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."

extra="${1:-}"
python="${PYTHON:-python3}"

install_debian_packages() {
  local missing=() package status
  while read -r package; do
    status="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)"
    [[ "$status" == installed ]] || missing+=("$package")
  done < <(grep -hv '^#' "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0

  echo "setup: installing Debian packages: ${missing[*]}"
  local as_root=()
  if [[ "$(id -u)" -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: neither root nor sudo; install the packages above, then run this again" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  # The index of a fresh machine or container is empty or old.
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

make_venv() {
  # A .venv outlives the interpreter that it links to when that one is upgraded or removed.
  if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    return 0
  fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "setup: $python is missing or older than 3.10; run: make setup PYTHON=/path/to/python" >&2
    return 1
  fi
  echo "setup: making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
}

# install_requirements STAMP GROUP...   installs unless STAMP is newer than the list
install_requirements() {
  local stamp=".venv/.stamps/$1" list
  shift
  if [[ "$stamp" -nt pyproject.toml && "$stamp" -nt scripts/requirements.py ]]; then
    return 0
  fi
  list="$(.venv/bin/python scripts/requirements.py "$@")"
  echo "setup: Python packages in .venv:" $list
  mkdir -p .venv/.stamps
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin <<<"$list"
  touch "$stamp"
}

package_lists=(scripts/debian_packages.txt)
if [[ "$extra" == bench ]]; then
  package_lists+=(scripts/debian_packages_bench.txt)
fi

if command -v dpkg-query >/dev/null; then
  install_debian_packages "${package_lists[@]}"
else
  echo "setup: not a Debian system; needed: $(grep -hv '^#' "${package_lists[@]}" | tr '\n' ' ')"
fi
make_venv
install_requirements python build test
if [[ -n "$extra" ]]; then
  install_requirements "$extra" "$extra"
fi
echo "setup: ready"
