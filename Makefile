# shearbench: `make results` is all a fresh machine with Python >= 3.11 needs. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIG ?=
BIN := .venv/bin
# Where ngmix is importable it is used as it is; where a conda front end is on PATH, snakemake makes ngmix an
# environment; where neither is, the run says what is missing and goes on without.
CONDA := $(firstword $(foreach tool,conda mamba micromamba,$(if $(shell command -v $(tool) 2>/dev/null),$(tool))))
DEPLOY = $(shell $(BIN)/python -c "import importlib.util as u; print('' if u.find_spec('ngmix') else '$(if $(CONDA),--sdm conda)')")
SNAKEMAKE = $(BIN)/python -m snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG)) $(DEPLOY)
LINTED = src scripts tests
FIGURE_RULES = $(shell $(BIN)/python -c "from shearbench.figures.catalogue import entries; print(*(f'figure_{name}' for name in entries()))")
CHECK = $(BIN)/python -m shearbench.config $(CONFIG)
RUN = $(shell $(CHECK))

.PHONY: help checked slurm test-slurm scaling results figures report test lint format bench docs lock clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 18
	@echo "  CORES=n sets the cores (now $(CORES)); CONFIG=config/paper.yaml takes another configuration"

# Before Snakemake reads them, which runs the Python in a file that says __use_yte__.
checked: .venv/ready
	@$(CHECK) >/dev/null

results: checked  ## run the default configuration: results/quick/ (takes up where it was interrupted)
	@echo "== results: the workflow, on $(CORES) cores"
	$(SNAKEMAKE)

slurm: checked  ## the same as SLURM jobs (site.yaml in workflow/profiles/slurm: account, partitions)
	@echo "== slurm: the workflow, submitted; docs/cluster.md says what to expect"
	$(BIN)/python -m snakemake --workflow-profile workflow/profiles/slurm $(if $(CONFIG),--configfile $(CONFIG)) $(DEPLOY)

figures: checked  ## redraw every figure from the metrics alone
	@echo "== figures: from the metrics, nothing else"
	$(SNAKEMAKE) --forceall --allowed-rules figures $(FIGURE_RULES) -- figures

report: checked  ## Snakemake's report of the default run: results/quick/report.html
	$(SNAKEMAKE) --report $(RUN)/report.html

test: .venv/ready  ## the tests (SLOW=1 for the long ones too, ONLY=trains for those of a marker)
	@echo "== test"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(if $(SLOW),--slow) $(if $(ONLY),-m $(ONLY))

test-slurm: .venv/ready  ## the profile on a throwaway SLURM, which takes root (installs Debian's packages)
	@echo "== test-slurm"
	@if [ "$$(id -u)" = 0 ] && ! command -v sbatch >/dev/null && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null \
	  || echo "SLURM could not be installed"; fi
	$(BIN)/python -m pytest -m slurm tests/slurm

scaling: checked  ## write the tables of docs/scaling.md anew, from the rates of the run of CONFIG
	$(BIN)/python -m shearbench.tools.scaling $(RUN) docs/scaling.md config/paper.yaml config/large.yaml

lint: .venv/ready  ## style, types, and the workflow's own checks
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	$(BIN)/python -m snakemake --lint

format: .venv/ready  ## put the code in its layout
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/snakefmt workflow

bench: .venv/ready  ## speed and memory beside the peers': results/bench/bench.csv (three minutes)
	@echo "== bench"
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m shearbench.tools.benchmark

docs: .venv/ready  ## write the config's schema and the table in config/README.md anew
	$(BIN)/python -m shearbench.tools.docs

lock: .venv/ready  ## resolve requirements.lock anew; torch stays where it is pinned
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --no-annotate --no-header \
	  --upgrade --constraint <(grep '^torch==' requirements.lock) --output-file .venv/new.lock
	{ head -2 requirements.lock; grep -vE '^(nvidia-|cuda-|triton|torch==)' .venv/new.lock; \
	  grep '^torch==' requirements.lock; } | sed 's/+cpu//' > .venv/sorted.lock && mv .venv/sorted.lock requirements.lock

clean:  ## delete the environment (results stay)
	rm -rf .venv

# The environment is ready when the mark is there, made last: an interrupted installation is taken up again.
.venv/ready: requirements.lock pyproject.toml
	@echo "== environment: .venv, the versions of requirements.lock (once, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "shearbench needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@
