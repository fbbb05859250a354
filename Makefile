# Every target works as the first command after a clone: it creates .venv and installs the package.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: help demo test check docs format speed clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## k-NN of the embedded checkpoint and of two floors, with intervals, and a leaderboard
	$(BIN)/ssleval run --model pixels,random:dino_scenes,dino_scenes --task knn --set knn.preprocessing=card --results $(DEMO)
	$(BIN)/ssleval leaderboard $(DEMO) --out $(DEMO)

test: .venv/installed  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow'  # one thread for each of the two workers

check: .venv/installed  ## what CI runs: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

docs: .venv/installed  ## the documentation site in build/site; a warning is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: .venv/installed  ## what you run first
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

speed: .venv/installed  ## timed ratios, minutes
	$(BIN)/python -m benchmarks.speed all

clean:  ## remove the environment and what was built
	rm -rf .venv build dist runs
