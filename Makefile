# didact: `make quickstart` looks at what the methods do, `make test` runs the tests.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: install dev quickstart test lint types docs clean

$(BIN)/didact: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $(BIN)/didact

$(BIN)/pytest: $(BIN)/didact
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,gym,lora]"
	@touch $(BIN)/pytest

install: $(BIN)/didact
dev: $(BIN)/pytest

quickstart: install
	$(BIN)/didact demo

test: dev lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	mkdir -p .types && ln -sfn .. .types/didact
	$(BIN)/mypy

docs: install
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .types build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
