# make help lists the targets. Everything is installed into .venv/ (LocoMuJoCo: .venv-locomujoco/) and nothing outside it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SCALE ?= demo
CORES ?= all
WORKERS ?= 2

BIN := .venv/bin
LOCO := .venv-locomujoco/bin
SOURCES := s2pg envs analysis workflow tests
SNAKEFILES := Snakefile workflow/rules
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

# One thread per process: jobs run side by side, and results depend on the number of threads.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
export NUMEXPR_NUM_THREADS = 1

.PHONY: help setup reproduce test slurm slurm-faults check lint format lock lock-locomujoco setup-locomujoco clean

help: ## show this list
	@sed -nE 's/^([a-z-]+)[a-z -]*:.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: .venv/.installed ## create .venv/ with the pinned packages

.venv/.installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Python 3.11 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup-locomujoco: .venv-locomujoco/.installed ## create .venv-locomujoco/, the same packages and LocoMuJoCo

.venv-locomujoco/.installed: requirements.lock requirements-locomujoco.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Python 3.11 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(LOCO)/python || "$(PYTHON)" -m venv .venv-locomujoco
	$(LOCO)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(LOCO)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-locomujoco.lock
	$(LOCO)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: setup ## train, analyse and report the default experiments (SCALE=demo; also smoke, lite, paper)
	@$(RUN) python -m workflow.scripts.unlock
	$(RUN) snakemake --quiet host reason --cores $(CORES) --config scale=$(SCALE)
	@echo "The report: $(CURDIR)/results/report/$(SCALE).html"

test: check ## set up, check style and types, run every test
	$(RUN) python -m pytest -n $(WORKERS) --dist loadgroup

# A throw-away machine and root: Debian's SLURM is installed, and configured in /etc/slurm.
slurm: setup ## the smoke run through a real SLURM of one node, on a throw-away machine
	$(RUN) python -m tests.slurm.cluster start --install
	status=0; $(RUN) S2PG_SLURM=1 python -m pytest -m slurm tests/test_slurm.py || status=$$?; \
		$(RUN) python -m tests.slurm.cluster stop; exit $$status

slurm-faults: setup ## kill, cancel, fill, damage; every run must survive (same machine)
	$(RUN) python -m tests.slurm.cluster start --install --accounting
	status=0; $(RUN) python -m tests.slurm.faults || status=$$?; \
		$(RUN) python -m tests.slurm.cluster stop; exit $$status

check lint: setup ## style, types and the workflow's own linter, without the tests
	$(RUN) ruff format --check $(SOURCES)
	$(RUN) ruff check $(SOURCES)
	$(RUN) mypy
	$(RUN) snakefmt --check $(SNAKEFILES)
	$(RUN) snakemake --lint

format: setup ## rewrite sources in the suite's style
	$(RUN) ruff format $(SOURCES)
	$(RUN) ruff check --fix $(SOURCES)
	$(RUN) snakefmt $(SNAKEFILES)

lock: ## write requirements.lock and environment.yml from the packages in .venv/
	$(BIN)/python -m workflow.scripts.lock

lock-locomujoco: ## write requirements-locomujoco.lock from the packages in .venv-locomujoco/
	$(LOCO)/python -m workflow.scripts.lock --locomujoco

clean: ## remove caches; results, runs and .venv/ stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
