# Jetbridge: `make help` says what there is. Needs cargo (Rust 1.95), Python 3.10+ with venv, make and a C compiler.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# Cargo's own default unless the environment says otherwise.
CARGO_TARGET_DIR ?= target
TARGET_DIR := $(abspath $(CARGO_TARGET_DIR))
export CARGO_TARGET_DIR := $(TARGET_DIR)
export JETBRIDGE_BIN := $(TARGET_DIR)/release/jetbridge
export PYTHONPATH := $(CURDIR)/tests/python
export PYTHONDONTWRITEBYTECODE := 1

PYTHON ?= python3
JETBRIDGE_VENV ?= $(TARGET_DIR)/venv
VENV_PYTHON := $(JETBRIDGE_VENV)/bin/python
# The environment is made again only when what it should hold, or the Python below it, has changed.
REQUIREMENTS := tests/requirements.txt tests/requirements-lint.txt
ENV_HASH := $(shell { cat $(REQUIREMENTS); $(PYTHON) --version; } 2>&1 | sha256sum | cut -c1-16)
LINT_READY := $(JETBRIDGE_VENV)/.ready-lint-$(ENV_HASH)
READY := $(JETBRIDGE_VENV)/.ready-$(ENV_HASH)
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --no-input --quiet

# One feature set and one profile for everything, so that nothing is compiled twice.
BUILD := cargo build --release --locked --workspace

# The size of the demo's and the benchmark's TPC-H data; 1 is 6 million rows of lineitem.
SF ?= 1
# More words for pytest, e.g. `make test PYTEST="-k types -x"`.
PYTEST ?=
# More words for `jetbridge serve`, e.g. `make serve SERVE="--mount /lake=file:///data"`.
SERVE ?=

.PHONY: help
help: ## Shows this list
	@printf 'make TARGET [NAME=value]\n\n'
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'
	printf '\nSF=%s (TPC-H scale of demo and bench), PYTEST="-k word", SERVE="--mount /lake=file:///data"\n' '$(SF)'

.PHONY: build
build: ## Builds the jetbridge program (release profile)
	@$(BUILD) --bins

.PHONY: demo
demo: build $(READY) ## From nothing to the main job: makes TPC-H data, serves it, reads it by Flight, compares
	@$(VENV_PYTHON) tests/demo/demo.py --scale-factor $(SF) --work-dir $(TARGET_DIR)/demo

.PHONY: test
test: test-rust build $(READY) ## Every test, Rust and Python, but those marked long
	@$(VENV_PYTHON) -m pytest -c tests/python/pytest.ini -m "not long" $(PYTEST) tests/python

.PHONY: test-rust
test-rust: ## The Rust tests alone
	@cargo test --release --locked --workspace

.PHONY: test-long
test-long: build $(READY) ## The Python tests that need minutes or gigabytes
	@$(VENV_PYTHON) -m pytest -c tests/python/pytest.ini -m long $(PYTEST) tests/python

.PHONY: bench
bench: $(READY) ## Measures ratios against plain programs, side by side; writes JSON and a Markdown table
	@$(BUILD) --bins --examples
	$(VENV_PYTHON) tests/bench/bench.py --scale-factor $(SF) --work-dir $(TARGET_DIR)/bench

.PHONY: serve
serve: build ## Runs a server with its data in the build folder; SERVE adds words to the command line
	@exec $(JETBRIDGE_BIN) serve --data-dir $(TARGET_DIR)/serve $(SERVE)

.PHONY: lint
lint: $(LINT_READY) ## Formatting and lints, Rust and Python
	@cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings
	$(VENV_PYTHON) -m ruff check --config tests/ruff.toml tests
	$(VENV_PYTHON) -m ruff format --check --config tests/ruff.toml tests

$(READY):
	@rm -rf $(JETBRIDGE_VENV)
	$(PYTHON) -m venv $(JETBRIDGE_VENV)
	$(PIP) install --only-binary :all: --requirement tests/requirements.txt
	touch $@

$(LINT_READY): $(READY)
	@$(PIP) install --only-binary :all: --requirement tests/requirements-lint.txt
	touch $@
