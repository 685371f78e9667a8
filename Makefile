# Everything that people and CI run. `make help` lists the targets.
#
# What is installed in the virtual environment is stamped: a newer pyproject.toml or interpreter
# installs again. What was dropped from pyproject.toml goes with `make clean`.

# The Python that .venv is made with; where it is unfit, scripts/make-venv takes a fitting one.
PYTHON ?= python3
# Arguments for pytest: make test ARGS="tests/unit -k states"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check install
# The stamps: what `make run` needs, the development tools on top, and what draws charts.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) ## Run the example batch on this machine; no key, Redis or Flyte needed
	$(BIN)/batchflow run examples/requests.jsonl --output-dir results

test: $(INSTALLED_DEV) ## Run all tests, with a real redis-server and browser (ARGS go to pytest)
	@scripts/ensure-redis
	@scripts/ensure-chromium
	$(BIN)/pytest --numprocesses auto --dist loadfile $(ARGS)

check: $(INSTALLED_DEV) ## Lint, check the format and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED_BENCH) ## Run all benchmarks and write their figures into docs/
	@scripts/ensure-redis
	@for benchmark in benchmarks/bench_*.py; do \
	$(BIN)/python "$$benchmark" || exit; done
	@$(BIN)/python benchmarks/report.py

clean: ## Remove .venv, caches and builds; results/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/make-venv $(VENV) $(PYTHON)

$(INSTALLED): pyproject.toml $(BIN)/python
	@echo "Installing Batchflow into $(VENV): the first time takes a minute or two."
	@$(PIP_INSTALL) --editable '.[local]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the development tools into $(VENV)."
	@# --group came with pip 25.1.
	@$(PIP_INSTALL) 'pip>=25.1'
	@$(PIP_INSTALL) --group test --group lint
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED_DEV)
	@$(PIP_INSTALL) --group bench
	@touch $@
