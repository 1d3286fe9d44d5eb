# UrlGuard's few commands; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test lint bench fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## set up and start UrlGuard on 127.0.0.1:5300 with the built-in list
	@$(BIN)/urlguard serve

test: $(VENV)/.dev ## set up and run all tests
	$(BIN)/pytest -q -n 2

lint: $(VENV)/.dev ## check style and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
