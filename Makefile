# UrlGuard's few commands; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Files with such tests: the others need not be looked through.
TIMING  = $(shell grep -rlE 'mark\.timing' tests --include='test_*.py')

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint messages bench fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## set up and start UrlGuard on 127.0.0.1:5300 with the built-in list
	@$(BIN)/urlguard serve

test: $(VENV)/.dev ## the tests to run before each commit: a few minutes
	$(BIN)/pytest -q -n auto --dist worksteal -m "not slow and not timing"

test-all: $(VENV)/.dev ## all tests, as CI runs them; those that measure time come last and alone
	$(BIN)/pytest -q -n auto --dist worksteal -m "not timing"
	$(BIN)/pytest -q -m timing $(TIMING) || $(BIN)/pytest -q -m timing $(TIMING) \
	  --last-failed --last-failed-no-failures none

lint: $(VENV)/.dev ## check style, types and the order of the package; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.house

messages: $(VENV)/.dev ## extract messages, update and compile the translations
	$(BIN)/python -m tests.catalogues

bench: $(VENV)/.dev ## measure against Unbound and dnsdist on one list; writes benchmarks/record
	$(BIN)/python -m benchmarks.resolvers

fuzz: $(VENV)/.dev ## a million broken datagrams and 10,000 broken streams; ten minutes
	URLGUARD_FUZZ=20 $(BIN)/pytest -q tests/test_fuzz.py
	$(BIN)/python -m benchmarks.hostile

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@ $(VENV)/.installed
