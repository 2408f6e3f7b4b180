PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup simulate test mutants lint

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,encoders]'
	touch $@

simulate: setup
	$(BIN)/hemofed simulate quickstart

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# An hour or two on two cores; stop it when you like, it goes on from there. See docs/testing.md.
mutants: setup
	nice -n 10 $(BIN)/python tests/mutants/run.py $(MODULES)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
