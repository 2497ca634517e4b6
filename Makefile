# The two commands of the README, and their parts. PYTHON is any Python 3.10 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types unit notebooks wheel docs gallery clean

demo: .venv/demo
	$(BIN)/gradprobe demo

test: lint types unit notebooks wheel

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# a process for each core, and each with one thread: two that share the cores wait for each other
unit: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --ignore=tests/test_notebooks.py --ignore=tests/test_wheel.py --cov --cov-report=term:skip-covered

notebooks: .venv/dev
	$(BIN)/python -m pytest tests/test_notebooks.py

wheel: .venv/dev
	$(BIN)/python -m pytest tests/test_wheel.py

gallery: .venv/dev
	$(BIN)/python notebooks/gallery.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[digits]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

docs: .venv/dev
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .coverage
