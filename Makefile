# kilofed: two commands, and a few for those who stay.
#
#   make demo    install what is missing, then watch a mixed fleet of emulated boards learn digits
#   make test    install what is missing, then lint, type-check, and run every test
#
# Everything made lies in build/. `make clean` removes it; installed system packages stay.

PYTHON := build/venv/bin/python
KILOFED := build/venv/bin/kilofed
JOBS ?= 2
# Of `make soak`.
MINUTES ?= 30

.PHONY: help demo test check unit size bench soak fuzz coverage setup setup-test clean

help:
	@sed -n '3,6p' Makefile | cut -c3-

setup:
	@tools/bootstrap.sh demo

setup-test:
	@tools/bootstrap.sh test

demo: setup
	@$(KILOFED) demo

# Style and types first: they fail fastest. pytest's closing line is the last thing printed.
test: setup-test check size unit

check:
	@echo "== ruff, mypy"
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check -q . || (echo "make test: run 'build/venv/bin/ruff format .' and commit the result" >&2; exit 1)
	@$(PYTHON) -m mypy

size:
	@echo "== flash, RAM and worst stack of each board, with the digits model"
	@if command -v arm-none-eabi-gcc >/dev/null; then $(KILOFED) build --all --modules --check; \
	 else echo "skipped: no arm-none-eabi-gcc"; fi

unit:
	@echo "== pytest"
	@$(PYTHON) -m pytest -n $(JOBS) --dist worksteal -q $(PYTEST_ARGS)

bench: setup-test
	@$(PYTHON) -m tests.bench

soak: setup-test
	@$(PYTHON) -m tests.chaos.mutants
	@$(PYTHON) -m tests.chaos.cuts
	@$(PYTHON) -m tests.soak --minutes $(MINUTES)

fuzz:
	@tests/fuzz/run.sh

# Lines that the tests run, of the Python packages (90 % at least) and of the C core (95 %). Counting slows start-up and
# loads modules of its own, so the two tests about just that are left out; nothing else changes.
coverage: export KILOFED_COVERAGE := 1
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/python
coverage: setup-test
	@rm -rf build/coverage && mkdir -p build/coverage
	@nice $(PYTHON) -m coverage run -m pytest -n $(JOBS) --dist worksteal -q --hypothesis-profile=ci \
	  --deselect tests/unit/test_cli.py::test_help_is_fast_and_loads_nothing_heavy \
	  --deselect tests/unit/test_cli.py::test_the_package_is_light_and_its_public_names_are_there $(PYTEST_ARGS)
	@$(PYTHON) -m coverage combine -q && $(PYTHON) -m coverage report
	@$(PYTHON) tests/firmware/core_coverage.py --fail-under 95

clean:
	rm -rf build
