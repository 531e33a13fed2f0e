# make serve   set up everything and start the starter cluster        make test    set up everything and run the tests
# make stop    end the cluster                                         make lint    style, types and import contracts
# The first run downloads about 900 MB of packages and models. The second one downloads, converts and compiles nothing.

PYTHON ?= python3.11
VENV ?= .venv
CONFIG ?= serve_config.yaml
# On a machine whose package index serves CUDA builds of torch, point pip at PyTorch's index of CPU builds here.
TORCH_OPTIONS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCKED := --no-deps --require-hashes
# Two processes of one thread each, which must agree on the order of tests, and so of sets. In order of names: long files have
# few tests, and would come last. What measures time runs alone.
IN_TWO = PYTHONHASHSEED=$$(date +%s) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
FAST := "not serve and not models and not nodes and not image"

.PHONY: help setup setup-dev models serve stop test test-fast test-serve test-nodes loadtest lint check-k8s format bench clean

help:
	@sed -n '1,3p' Makefile

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed and $(PYTHON) was not found. Install it, or run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version); the locked packages are for Python 3.11. Run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "The locks are for Linux x86-64; this is $$(uname -sm). See docs/adding.md for other platforms."; exit 1; }
	@test "$$(df -Pk . | awk 'NR==2 {print $$4}')" -gt 6000000 || { echo "6 GB of free disk are needed here. Free some, or choose another place: make $(MAKECMDGOALS) VENV=/other/disk/venv"; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python Makefile
	@echo "Installing torch (CPU)"
	@$(PIP) install --quiet $(TORCH_OPTIONS) torch==2.13.0
	@touch $@

$(VENV)/.cpu: $(VENV)/.torch requirements/cpu.txt pyproject.toml
	@echo "Installing $$(grep -c == requirements/cpu.txt) locked packages (two minutes the first time)"
	@$(PIP) install --quiet $(LOCKED) -r requirements/cpu.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.txt
	@echo "Installing $$(grep -c == requirements/dev.txt) packages for tests"
	@$(PIP) install --quiet $(LOCKED) -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.cpu

setup-dev: $(VENV)/.dev

models: setup
	@$(BIN)/medley fetch $(CONFIG)

serve: setup
	@$(BIN)/medley up $(CONFIG)

stop:
	@if [ -x $(BIN)/medley ]; then $(BIN)/medley down; else echo "Nothing is set up here."; fi

test: lint check-k8s test-fast test-serve loadtest

test-fast: setup-dev
	$(IN_TWO) -m $(FAST) --ignore tests/loadtests
	$(BIN)/python -m pytest -m $(FAST) tests/loadtests

test-serve: setup-dev models
	$(IN_TWO) --timeout 900 -m "models" tests
	$(BIN)/python -m pytest -m "serve" tests

# Several Ray nodes on this machine, and what happens when they die. As root, eleven minutes; not part of `make test`.
test-nodes: setup-dev models
	$(BIN)/python -m pytest -m "nodes" tests

# Starts a cluster of its own, which fetches what it lacks. Exit code 3, "too little was proven", is a warning here.
loadtest: setup-dev
	@$(BIN)/medley up $(CONFIG)
	@$(BIN)/medley loadtest run smoke --promises cpu-ci --rate 2 --seconds 20; code=$$?; $(BIN)/medley down; [ $$code -eq 0 ] || [ $$code -eq 3 ]

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# KUBERAY_CRDS names a folder of KubeRay's CRDs, such as ray-operator/config/crd/bases of its repository.
check-k8s: setup-dev
	$(BIN)/medley k8s check
	$(BIN)/hadolint docker/Dockerfile
	@if command -v promtool >/dev/null; then promtool test rules monitoring/alerts_test.yml; else echo "promtool is not here: alerts are not tested."; fi

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev models
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) build loadtest-report *.egg-info
