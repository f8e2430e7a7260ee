# Every target sets .venv up when it is missing. PYTHON names another interpreter, 3.10 to 3.13.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?=
BIN := .venv/bin
READY := .venv/.ready
# Linters of deploy/ that nothing else needs.
DEPLOY_CHECKS := .venvs/deploy-checks
# Tests spread over the cores; one torch thread each.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest

STRATEGY ?=
TRANSPORT ?=
ROUNDS ?=
SEED ?=
OUT ?=
CONFIG ?= configs/local.toml
ARGS ?=

SEEDS ?= 1000
MESSAGES ?= 1000000
SESSIONS ?= 10000
MINUTES ?= 60

.PHONY: help setup proto run-local sim sim-faults test test-slow test-live test-pythons check format golden bench bench-live bench-wire fuzz fuzz-grpc soak mutants check-deploy rehearse rehearse-boxes clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with everything that is needed here

$(READY): pyproject.toml constraints.txt tools/find_python.sh
	@python=$$(PYTHON="$(PYTHON)" bash tools/find_python.sh) || exit 1; \
	echo "setting up .venv with $$python (a few minutes, once)"; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
	@touch $@

proto: $(READY) ## Generate the code of the gRPC contract anew
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. mpls/adapters/mpls_service.proto

run-local: $(READY) ## Three workers here on real digits; STRATEGY= TRANSPORT= ROUNDS= SEED= OUT= CONFIG= ARGS=
	@$(BIN)/mpls run $(CONFIG) $(if $(STRATEGY),--strategy $(STRATEGY)) $(if $(TRANSPORT),--transport $(TRANSPORT)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) $(ARGS)

sim: $(READY) ## Simulate: the default sweep, or ARGS='--bw 5-10MB --workers 30'
	@$(BIN)/python -m sim $(ARGS)

sim-faults: $(READY) ## Seeded faults through the real core, SEEDS=1000 of them
	@$(BIN)/python -m sim.fault_runs --seeds $(SEEDS) $(ARGS)

test: $(READY) ## The default suite: under 3 minutes on two cores
	$(PYTEST) -n 2 --dist loadgroup -m "not slow and not live" $(ARGS)

test-slow: $(READY) ## Long tests
	$(PYTEST) -m slow $(ARGS)

test-live: $(READY) ## Tests that need root, namespaces or much time with real processes
	$(PYTEST) -m "live and not slow" $(ARGS)

test-pythons: ## On every Python from 3.10 that is installed: core, wire, config and sim without torch
	@bash tools/test_pythons.sh

check: $(READY) ## Format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) tests/test_architecture.py

format: $(READY) ## Let ruff rewrite
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format -q .

golden: $(READY) ## Write the transcripts' answers anew; then look at the diff
	-@MPLS_GOLDEN=write $(PYTEST) tests/core/test_transcripts.py > /dev/null
	@git --no-pager diff --stat tests/core/transcripts

bench: $(READY) ## All benchmarks; each prints ratios beside its limits
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || failed=1; done; exit $${failed:-0}

bench-live: $(READY) ## What a live federation costs: the figures of the README
	@$(BIN)/python tests/bench/bench_live.py

bench-wire: $(READY) ## Speed and cost of pulls beside raw TCP, gRPC and pickle; ARGS=--quick
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_wire $(ARGS)

fuzz: $(READY) ## Malformed messages and broken sessions against a live server; MESSAGES= SESSIONS= SEED=
	@$(BIN)/python -m tests.fuzz --messages $(MESSAGES) --sessions $(SESSIONS) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz-grpc: $(READY) ## The same for the gRPC contract, both of its ends; MESSAGES= SEED=
	@$(BIN)/python -m tests.adapters.fuzz --messages $(MESSAGES) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(READY) ## Three live workers, one killed every 20 s: MINUTES=60 SEED= OUT= ARGS='--every-s 10'
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) $(ARGS)

mutants: $(READY) ## Remove each guard of the wire in turn: some test must fail
	@$(BIN)/python -m tools.mutants $(ARGS)

twin-check: $(READY) ## Live runs over shaped links, held against the twin; needs root, some minutes; OUT=
	@$(BIN)/python -m tests.twin check $(if $(OUT),--out $(OUT)) $(ARGS)

twin-study: $(READY) ## All settings of docs/twin.md; needs root, about an hour; OUT=
	@$(BIN)/python -m tests.twin study $(if $(OUT),--out $(OUT)) $(ARGS)

check-deploy: $(DEPLOY_CHECKS)/.ready ## Lint deploy/: Dockerfile, compose and Kubernetes files, scripts, units
	@bash tools/check_deploy.sh $(DEPLOY_CHECKS)/bin

$(DEPLOY_CHECKS)/.ready: deploy/checks.txt $(READY)
	@$(BIN)/python -m venv $(DEPLOY_CHECKS)
	@$(DEPLOY_CHECKS)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: -r $< 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
	@touch $@

rehearse: $(READY) ## A whole deployment on three booted servers; needs root, 20 minutes or so; ARGS=
	@$(BIN)/python -m tests.rehearsal $(ARGS)

rehearse-boxes: $(READY) ## Run what the containers would run, without an engine; needs root and debootstrap; ARGS=
	@$(BIN)/python -m tests.deploy.boxes $(ARGS)

clean: ## Remove what tests and builds leave behind; keeps .venv and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
