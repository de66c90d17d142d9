# kilofed: two commands, and a few for those who stay.
#
#   make demo    install what is missing, then watch a mixed fleet of emulated boards learn digits
#   make test    install what is missing, then lint, type-check, and run every test
#
# Everything made lies in build/. `make clean` removes it; installed system packages stay.

PYTHON := build/venv/bin/python
KILOFED := build/venv/bin/kilofed
JOBS ?= 2

.PHONY: help demo test check unit size bench soak fuzz setup setup-test clean

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
	@if command -v arm-none-eabi-gcc >/dev/null; then $(KILOFED) build --all; \
	 else echo "skipped: no arm-none-eabi-gcc"; fi

unit:
	@echo "== pytest"
	@$(PYTHON) -m pytest -n $(JOBS) --dist worksteal -q $(PYTEST_ARGS)

bench: setup-test
	@$(PYTHON) -m tests.bench

soak: setup-test
	@$(PYTHON) -m pytest -q tests/soak

fuzz: setup-test
	@tests/fuzz/run.sh

clean:
	rm -rf build
