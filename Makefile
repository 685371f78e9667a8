# The commands for developers and CI. `make help` lists the targets.
#
# Stamp files record what is installed in the virtual environment. If pyproject.toml or the
# interpreter is newer, it is installed again. `make clean` also removes packages that
# pyproject.toml no longer names.

# The Python for .venv. If its version is not supported, scripts/make-venv selects another one.
PYTHON ?= python3
# Arguments for pytest: make test ARGS="tests/unit -k states"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check install
# The stamp files of what `make run` needs, the development tools, and what draws the charts.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) ## Run the example batch on this machine, without a key, Redis or Flyte
	$(BIN)/batchflow run examples/requests.jsonl --output-dir results

test: $(INSTALLED_DEV) ## Run all tests, with a real redis-server and browser (ARGS: for pytest)
	@scripts/ensure-redis
	@scripts/ensure-chromium
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED_DEV) ## Check lint rules, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED_BENCH) ## Run all benchmarks and write their results to docs/
	@scripts/ensure-redis
	@for benchmark in benchmarks/bench_*.py; do \
	$(BIN)/python "$$benchmark" || exit; done
	@$(BIN)/python benchmarks/report.py

clean: ## Remove .venv, caches and builds, but not results/
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/make-venv $(VENV) $(PYTHON)

$(INSTALLED): pyproject.toml $(BIN)/python
	@echo "Installing Batchflow into $(VENV). The first time, this takes a minute or two."
	@$(PIP_INSTALL) --editable '.[local]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the development tools into $(VENV)."
	@# --group requires pip 25.1.
	@$(PIP_INSTALL) 'pip>=25.1'
	@$(PIP_INSTALL) --group test --group lint
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED_DEV)
	@$(PIP_INSTALL) --group bench
	@touch $@
