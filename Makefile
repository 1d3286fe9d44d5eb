# UrlGuard's few commands; `make help` lists them.
# VENV is the environment's folder; PYTHON, if given, the interpreter to make it from.
export VENV ?= .venv
BIN := $(VENV)/bin

# Files with such tests: the others need not be looked through.
TIMING  = $(shell grep -rlE 'mark\.timing' tests --include='test_*.py')

.DEFAULT_GOAL := help
.PHONY: help run install test test-all lint messages bench fuzz lock clean
.PHONY: environment environment-dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: environment ## set up and start UrlGuard on 127.0.0.1:5300 with the built-in list
	@$(BIN)/urlguard serve

install: environment ## set up only: the urlguard command is then .venv/bin/urlguard

test: environment-dev ## the tests to run before each commit: a few minutes
	$(BIN)/pytest -q -n auto --dist worksteal -m "not slow and not timing"

# What failed beside others is run once more, alone; pytest's first summary names it.
test-all: environment-dev ## all tests, as CI runs them; those that measure time come last and alone
	$(BIN)/pytest -q -n auto --dist worksteal -m "not timing" || $(BIN)/pytest -q -m "not timing" \
	  --last-failed --last-failed-no-failures none
	$(BIN)/pytest -q -m timing $(TIMING) || $(BIN)/pytest -q -m timing $(TIMING) \
	  --last-failed --last-failed-no-failures none

lint: environment-dev ## check style, types and the order of the package; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.house

messages: environment-dev ## extract messages, update and compile the translations
	$(BIN)/python -m tests.catalogues

bench: environment-dev ## measure against Unbound and dnsdist on one list; writes benchmarks/record
	$(BIN)/python -m benchmarks.resolvers

fuzz: environment-dev ## a million broken datagrams and 10,000 broken streams; ten minutes
	URLGUARD_FUZZ=20 $(BIN)/pytest -q tests/test_fuzz.py
	$(BIN)/python -m benchmarks.hostile

lock: environment ## renew the versions and hashes in requirements*.txt; needs the package registry
	$(BIN)/python scripts/lock.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Makes the environment, mends it or renews it; does nothing where that is done.
environment:
	@sh scripts/environment run

environment-dev:
	@sh scripts/environment dev
