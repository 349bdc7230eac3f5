# Theus: `make demo` shows it, `make test` checks everything. The work is done by scripts/.
#
# PYTHON=...  the interpreter that .venv is made from      JOBS=...  compilers and tests at a time
# STAGES=...  what `make test` runs (tidy cpp python model clang asan tsan; default: all of them)
# ARGS=...    arguments of `make top` and `make bench`

PYTHON ?= python3
JOBS ?= 2
STAGES ?=
ARGS ?=
export PYTHON JOBS

.DEFAULT_GOAL := help
.PHONY: help setup build wheel test demo bench top format clean
# Every target uses the one .venv and the one build folder; JOBS is what runs in parallel.
.NOTPARALLEL:

help:
	@echo "make setup    install what is missing: Debian packages, and Python packages in .venv"
	@echo "make build    build the C++ tree (build/release) and install the wheel into .venv"
	@echo "make test     run every check; STAGES='cpp python' runs only these"
	@echo "make demo     build what is needed and run an example"
	@echo "make bench    run the benchmarks, also against LMDB and Redis"
	@echo "make top      watch the running coordinators"
	@echo "make format   format the C++ and Python code"
	@echo "make clean    remove what was built (.venv stays; remove it by hand)"

setup:
	@scripts/setup.sh

wheel: setup
	@scripts/install_wheel.sh

build: wheel
	cmake --preset release
	cmake --build --preset release --parallel $(JOBS)

test: setup
	@scripts/test.sh $(STAGES)

demo: wheel
	.venv/bin/python examples/index_stdlib.py

bench: build
	@scripts/setup.sh bench
	@scripts/bench.sh $(ARGS)

top: wheel
	.venv/bin/theus-top $(ARGS)

format:
	@scripts/setup.sh format
	git ls-files --cached --others --exclude-standard -z '*.h' '*.cpp' \
	  | xargs -0 -r .venv/bin/clang-format -i
	.venv/bin/ruff format .

clean:
	rm -rf build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache .venv/.stamps/wheel
