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
# PyTorch has an environment of its own: not everybody wants its gigabytes.
TORCH_VENV ?= $(TARGET_DIR)/venv-torch
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --no-input --quiet

# One feature set and one profile for everything, so that nothing is compiled twice.
BUILD := cargo build --release --locked --workspace

# The wheel is made of the library that the build above has made: with these, maturin asks cargo for the very same, and
# nothing is compiled again.
WHEELS := $(TARGET_DIR)/wheels
export JETBRIDGE_TEST_WHEELS := $(WHEELS)
MATURIN := $(JETBRIDGE_VENV)/bin/maturin build --manifest-path python/Cargo.toml --release --locked --auditwheel skip

# The size of the demo's and the benchmark's TPC-H data; 1 is 6 million rows of lineitem.
SF ?= 1
# More words for pytest, e.g. `make test PYTEST="-k types -x"`.
PYTEST ?=
# How many processes share the Python tests; each has servers of its own, so that more want memory: 4 GB each.
PYTEST_PROCESSES ?= 3
# More words for the benchmark, e.g. `make bench BENCH="--only sql --rounds 3"`.
BENCH ?=
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
demo: python-package ## From nothing to the main job: makes TPC-H data, serves and preloads it, reads and compares
	@$(VENV_PYTHON) tests/demo/demo.py --scale-factor $(SF) --work-dir $(TARGET_DIR)/demo \
		--torch-venv $(TORCH_VENV) --wheels $(WHEELS)

.PHONY: wheel
wheel: $(READY) ## Builds the Python wheel, client and server in one, into the build folder
	@$(BUILD)
	rm -rf $(WHEELS)
	$(MATURIN) --interpreter $(VENV_PYTHON) --compression-level 1 --out $(WHEELS)

.PHONY: python-package
python-package: wheel ## Installs the wheel into the tests' environment
	@$(PIP) install --no-deps --no-index --force-reinstall $(WHEELS)/jetbridge-*.whl

.PHONY: test-torch
test-torch: python-package ## The tests of jetbridge.torch, in an environment of their own (5 GB); JETBRIDGE_TORCH=no: without
	@$(PYTHON) tests/torch/run.py --venv $(TORCH_VENV) --wheels $(WHEELS) -- $(PYTEST)

.PHONY: test
test: test-rust python-package test-torch ## Every test, Rust and Python, but those marked long
	@$(VENV_PYTHON) -m pytest -c tests/python/pytest.ini -m "not long" --numprocesses $(PYTEST_PROCESSES) \
		--dist loadfile $(PYTEST) tests/python

.PHONY: test-rust
test-rust: $(READY) ## The Rust tests alone
	@if etcd=$$($(VENV_PYTHON) -m harness.etcd); then export JETBRIDGE_TEST_ETCD_BINARY="$$etcd"; fi
	cargo test --release --locked --workspace

.PHONY: test-long
test-long: python-package ## The Python tests that need minutes or gigabytes
	@$(VENV_PYTHON) -m pytest -c tests/python/pytest.ini -m long $(PYTEST) tests/python

.PHONY: bench
bench: python-package ## Measures ratios against what else does the work, side by side; writes JSON and a Markdown table
	@$(BUILD) --bins --examples
	$(VENV_PYTHON) tests/bench/bench.py --scale-factor $(SF) --work-dir $(TARGET_DIR)/bench \
		--torch-venv $(TORCH_VENV) --wheels $(WHEELS) $(BENCH)

.PHONY: serve
serve: build ## Runs a server with its data in the build folder; SERVE adds words to the command line
	@exec $(JETBRIDGE_BIN) serve --data-dir $(TARGET_DIR)/serve $(SERVE)

.PHONY: lint
lint: $(LINT_READY) python-package ## Formatting, lints and types, Rust and Python
	@cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings
	$(VENV_PYTHON) -m ruff check --config tests/ruff.toml tests python
	$(VENV_PYTHON) -m ruff format --check --config tests/ruff.toml tests python
	$(VENV_PYTHON) -m mypy --config-file python/pyproject.toml python/jetbridge
	# Where there is the environment with torch, what is said of torch is checked too.
	checked=$(VENV_PYTHON)
	if [[ -x $(TORCH_VENV)/bin/python ]]; then checked=$(TORCH_VENV)/bin/python; fi
	$(VENV_PYTHON) -m pyright --project python/pyproject.toml --pythonpath "$$checked"
	$(VENV_PYTHON) -m mypy.stubtest --mypy-config-file python/pyproject.toml --allowlist python/stubtest.allow \
		jetbridge

.PHONY: docs
docs: $(LINT_READY) python-package ## The Python package's reference, as HTML in the build folder
	@$(VENV_PYTHON) -m pdoc --docformat google --no-show-source --output-directory $(TARGET_DIR)/docs jetbridge
	@printf '%s\n' '$(TARGET_DIR)/docs/jetbridge.html'

$(READY):
	@rm -rf $(JETBRIDGE_VENV)
	$(PYTHON) -m venv $(JETBRIDGE_VENV)
	$(PIP) install --only-binary :all: --requirement tests/requirements.txt
	touch $@

$(LINT_READY): $(READY)
	@$(PIP) install --only-binary :all: --requirement tests/requirements-lint.txt
	touch $@
