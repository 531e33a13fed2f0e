# make serve   set up everything and start the starter cluster        make test    set up everything and run the tests
# make stop    end the cluster                                         make lint    style, types and import contracts
# The first run downloads about 900 MB of packages and models. The second one downloads, converts and compiles nothing.

# The Python to use. Empty: the first suitable one, or one that uv provides.
PYTHON ?=
VENV ?= .venv
CONFIG ?= serve_config.yaml
# If the machine's package index serves CUDA builds of torch, point pip at PyTorch's index of CPU builds here.
TORCH_OPTIONS ?=

ifneq ($(words $(VENV)),1)
$(error VENV is a folder without spaces in its name, because make takes them for several)
endif
BIN := $(VENV)/bin
# Python compiles each module on first import. Compiling all of them in advance would double the time to install.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile
# pip's output goes to a file, because its warnings would hide make's messages. On failure the end of it is shown.
LOG := $(VENV)/setup.log
LOGGED = >>$(LOG) 2>&1 || { tail -n 25 $(LOG); echo "The whole output of pip: $(LOG)"; exit 1; }
LOCKED := --no-deps --require-hashes
# Two processes with one thread each, in an order that depends on the seed: `make test-fast SEED=7` repeats a run.
SEED ?= $(shell date +%s)
SEED := $(SEED)
PYTEST = PYTHONDONTWRITEBYTECODE= PYTHONHASHSEED=$(SEED) $(BIN)/python -m pytest
IN_TWO = OMP_NUM_THREADS=1 $(PYTEST) --randomly-seed=$(SEED) -n 2 --dist loadfile --no-loadscope-reorder
IN_ORDER = $(PYTEST) -p no:randomly
PARTS = $(BIN)/python tests/parts.py

.PHONY: help setup setup-dev models serve stop test test-all test-changed check test-fast test-cluster test-matrix test-models \
	test-variants test-loadtests test-serve test-adversary test-nodes test-mutations loadtest lint check-k8s generated format bench clean

help:
	@sed -n '1,3p' Makefile

$(VENV)/.python:
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "The locks are for Linux x86-64; this is $$(uname -sm). See docs/adding.md for other platforms."; exit 1; }
	@test "$$(df -Pk . | awk 'NR==2 {print $$4}')" -gt 6000000 || { echo "6 GB of free disk are needed here. Free some, or choose another place: make $(MAKECMDGOALS) VENV=/other/disk/venv"; exit 1; }
	@requirements/venv.sh $(VENV) $(PYTHON)
	@touch $@

# The locked packages come first, so that torch finds its requirements. A CUDA build has more, which pip then adds.
$(VENV)/.locked: $(VENV)/.python requirements/cpu.txt
	@echo "Installing $$(grep -c '^[a-z]' requirements/cpu.txt) locked packages (a minute the first time)"
	@$(INSTALL) $(LOCKED) -r requirements/cpu.txt $(LOGGED)
	@touch $@

$(VENV)/.torch: $(VENV)/.locked Makefile
	@echo "Installing torch"
	@$(INSTALL) $(TORCH_OPTIONS) torch==2.13.0 $(LOGGED)
	@touch $@

$(VENV)/.cpu: $(VENV)/.torch pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation --editable . $(LOGGED)
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.txt
	@echo "Installing $$(grep -c '^[a-z]' requirements/dev.txt) packages for tests"
	@$(INSTALL) $(LOCKED) -r requirements/dev.txt $(LOGGED)
	@touch $@

setup: $(VENV)/.cpu

setup-dev: $(VENV)/.dev

models: setup
	@$(BIN)/medley fetch $(CONFIG)

serve: setup
	@$(BIN)/medley up $(CONFIG)

stop:
	@if [ -x $(BIN)/medley ]; then $(BIN)/medley down; else echo "Nothing is set up here."; fi

# Every commit must pass this. Each part can run alone too. CONTRIBUTING.md says which test belongs where.
test: setup-dev
	@$(PARTS) run check test-fast test-cluster

# For releases: all parts, one after the other. A part that already passed on the same files is skipped.
test-all: setup-dev
	@$(PARTS) resume

# Those tests of `make test` that a change can affect; SINCE=main for a branch.
test-changed: setup-dev
	@SEED=$(SEED) PYTHONHASHSEED=$(SEED) $(BIN)/python tests/changed.py $(SINCE)

check: setup-dev
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint check-k8s

test-fast: setup-dev models
	$(IN_TWO) tests

test-cluster: setup-dev models
	$(IN_ORDER) -m cluster tests/cluster

test-matrix: setup-dev models
	$(IN_TWO) -m matrix tests

test-models: setup-dev models
	$(IN_TWO) --timeout 900 -m models tests/engines tests/models

test-variants: setup-dev models
	$(IN_TWO) --timeout 900 -m variants tests/engines tests/models

# These measure time, so they run one after the other.
test-loadtests: setup-dev
	$(IN_ORDER) -m loadtests tests/loadtests

test-serve: setup-dev models
	$(IN_ORDER) -m serve tests/serve

# Hostile requests and a fuzzer for ten minutes; SEED=7 repeats them, MEDLEY_FUZZ_S=60 shortens the fuzzer.
test-adversary: setup-dev models
	$(IN_ORDER) -s -m adversary tests/adversary

# Several Ray nodes on this machine, some of which fail. Needs root.
test-nodes: setup-dev models
	$(IN_ORDER) -m nodes tests/nodes

# Plants faults in the product, which the tests must find.
test-mutations: setup-dev models
	$(BIN)/python tests/mutations/run.py

# Starts its own cluster, which fetches missing models. Exit code 3, "too little was proven", is only a warning here.
loadtest: setup-dev
	@$(BIN)/medley up $(CONFIG)
	@$(BIN)/medley loadtest run smoke --promises cpu-ci --rate 2 --seconds 20; code=$$?; $(BIN)/medley down; [ $$code -eq 0 ] || [ $$code -eq 3 ]

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# KUBERAY_CRDS names a folder of KubeRay's CRDs, such as ray-operator/config/crd/bases of its repository.
check-k8s: setup-dev
	$(BIN)/medley k8s check --as-shipped
	$(BIN)/hadolint docker/Dockerfile
	@if command -v promtool >/dev/null; then promtool test rules monitoring/alerts_test.yml; else echo "promtool is not here: alerts are not tested."; fi

# Files and tables of documents that are made from the catalog, the contracts of tasks and slo.yaml.
generated: setup-dev
	$(BIN)/medley monitoring
	$(BIN)/medley k8s generate
	MEDLEY_WRITE_TABLES=1 $(PYTEST) -q tests/test_readme.py tests/medley_cli/test_monitoring.py tests/medley_cli/test_mistakes_page.py

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev models
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) build loadtest-report *.egg-info
