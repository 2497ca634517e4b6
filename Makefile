# The two commands of the README, and their parts. PYTHON is any Python 3.10 or newer.
PYTHON ?= python3
# `make unit CONSTRAINTS=` installs the newest versions that the package allows
CONSTRAINTS ?= -c constraints.txt
BIN := .venv/bin
# a file stays in one process, which shares its fixtures; the slow files come first (tests/conftest.py)
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint types unit coverage docs site gallery clean

demo: .venv/demo
	$(BIN)/gradprobe demo

test: lint types unit

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# a process for each core, and each with one thread: two that share the cores wait for each other
unit: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

coverage: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered

gallery: .venv/dev
	$(BIN)/python notebooks/gallery.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e '.[digits]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e '.[dev]'
	touch $@

docs: .venv/dev
	$(BIN)/python docs/build.py

site: .venv/site
	$(BIN)/mkdocs build --strict

.venv/site: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q $(CONSTRAINTS) 'mkdocs>=1.6,<2' 'mkdocs-material>=9.5'
	touch $@

clean:
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .coverage
