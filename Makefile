# shearbench: `make results` does a run on a fresh machine with Python >= 3.11. `make help` lists all targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIG ?=
BIN := .venv/bin
# If ngmix can be imported, it is used. If not, and conda, mamba or micromamba is on PATH, Snakemake makes an
# environment with ngmix. Otherwise the run reports that ngmix is missing and continues without it.
CONDA := $(firstword $(foreach tool,conda mamba micromamba,$(if $(shell command -v $(tool) 2>/dev/null),$(tool))))
DEPLOY = $(shell $(BIN)/python -c "import importlib.util as u; print('' if u.find_spec('ngmix') else '$(if $(CONDA),--sdm conda)')")
SNAKEMAKE = $(BIN)/python -m snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG)) $(DEPLOY)
LINTED = src scripts tests
FIGURE_RULES = $(shell $(BIN)/python -c "from shearbench.figures.catalogue import entries; print(*(f'figure_{name}' for name in entries()))")
CHECK = $(BIN)/python -m shearbench.config $(CONFIG)
RUN = $(shell $(CHECK))

.PHONY: help checked doctor watch archive site slurm test-slurm scaling results measure figures studies searches morphology frameworks report test lint format bench docs lock clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 18
	@echo "  CORES=n sets the number of cores (now $(CORES)); CONFIG=config/paper.yaml sets the configuration"

# The configuration is checked before Snakemake reads it, because Snakemake runs the Python code of a file that
# contains __use_yte__.
checked: .venv/ready
	@$(CHECK) >/dev/null

results: checked  ## run the default configuration: results/quick/ (continues an interrupted run)
	@echo "== results: the workflow, on $(CORES) cores"
	$(SNAKEMAKE)

watch:  ## show how far the run is, in another terminal: jobs done, running, failed, time left
	@PYTHONPATH=src $(BIN)/python -m shearbench.tools.watch

doctor:  ## say what this machine has, and what a run leaves out because of it (before the installation too)
	@PYTHONPATH=src $$([ -x $(BIN)/python ] && echo $(BIN)/python || echo $(PYTHON)) -m shearbench.tools.doctor $(CONFIG)

slurm: checked  ## the same as SLURM jobs (site.yaml in workflow/profiles/slurm: account, partitions)
	@echo "== slurm: the workflow as SLURM jobs (see docs/cluster.md)"
	$(BIN)/python -m snakemake --workflow-profile workflow/profiles/slurm $(if $(CONFIG),--configfile $(CONFIG)) $(DEPLOY)

measure: .venv/ready  ## measure your own stamps with a finished run: STAMPS=my.h5 (docs/own-data.md)
	@$(BIN)/python -m shearbench.tools.measure "$(STAMPS)" --run "$(RUN)" $(foreach file,$(NETWORK),--network "$(file)") \
	  $(if $(POPULATION),--population $(POPULATION)) $(if $(PSF),--psf "$(PSF)") $(if $(SIGMA),--sigma $(SIGMA)) \
	  $(if $(SCALE),--scale $(SCALE)) $(if $(FLUX_SCALE),--flux-scale $(FLUX_SCALE)) $(if $(RESIZE),--resize) \
	  $(if $(OUTPUT),--output "$(OUTPUT)")

figures: checked  ## redraw all figures from the metrics
	@echo "== figures: from the metrics"
	$(SNAKEMAKE) --forceall --allowed-rules figures $(FIGURE_RULES) -- figures

studies: checked  ## run all studies: table and figure of all verdicts (CONFIG=config/studies.yaml for all populations)
	@echo "== studies: all of config/studies that fit the run"
	$(SNAKEMAKE) studies

searches: checked  ## search the hyper-parameters of config/searches that fit the run: best recipes as variants
	@echo "== searches: all of config/searches that fit the run"
	$(SNAKEMAKE) searches

morphology: CONFIG = config/morphology.yaml
morphology: checked  ## classify galaxies by morphology: results/morphology/ (docs/morphology.md)
	@echo "== morphology: images, classifiers, tables and figures"
	$(SNAKEMAKE) -- morphology

frameworks: CONFIG = config/frameworks.yaml
frameworks: checked  ## one network in NumPy, PyTorch, JAX and Keras: results/frameworks/ (docs/frameworks.md)
	@echo "== frameworks: trainings, table and figures"
	$(SNAKEMAKE) -- frameworks

archive: checked  ## pack the finished run into results/quick.tar.gz (MODELS=1, STAMPS=1: with networks, stamps)
	@$(BIN)/python -m shearbench.tools.archive "$(RUN)" $(if $(MODELS),--models) $(if $(STAMPS),--stamps)

report: checked  ## write Snakemake's report of the default run: results/quick/report.html
	$(SNAKEMAKE) --report $(RUN)/report.html

test: .venv/ready  ## run the tests (SLOW=1: the slow ones too; ONLY=trains: those with a marker)
	@echo "== test"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(if $(SLOW),--slow) $(if $(ONLY),-m $(ONLY))

test-slurm: .venv/ready  ## test the SLURM profile on a temporary SLURM (root, installs Debian packages; SLOW=1)
	@echo "== test-slurm"
	@if [ "$$(id -u)" = 0 ] && ! command -v sbatch >/dev/null && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null \
	  || echo "SLURM could not be installed"; fi
	$(BIN)/python -m pytest -m slurm $(if $(SLOW),--slow) tests/slurm

scaling: checked  ## update the tables of docs/scaling.md from the rates of the run of CONFIG
	$(BIN)/python -m shearbench.tools.scaling $(RUN) docs/scaling.md config/paper.yaml config/large.yaml

lint: .venv/ready  ## check style, types and the workflow
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	$(BIN)/python -m snakemake --lint

format: .venv/ready  ## format the code
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/snakefmt workflow

bench: .venv/ready  ## compare speed and memory with GalSim and ngmix: results/bench/bench.csv (3 min)
	@echo "== bench"
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m shearbench.tools.benchmark

docs: .venv/ready  ## update the schema and the table of options in config/README.md
	$(BIN)/python -m shearbench.tools.docs

site: .site/ready  ## build the documentation site: .site/html/index.html (in an environment of its own)
	NO_MKDOCS_2_WARNING=1 .site/venv/bin/mkdocs build --quiet

lock: .venv/ready  ## update requirements.lock, except for the version of torch
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --no-annotate --no-header \
	  --upgrade --constraint <(grep '^torch==' requirements.lock) --output-file .venv/new.lock
	{ head -2 requirements.lock; grep -vE '^(nvidia-|cuda-|triton|torch==)' .venv/new.lock; \
	  grep '^torch==' requirements.lock; } | sed 's/+cpu//' > .venv/sorted.lock && mv .venv/sorted.lock requirements.lock

clean:  ## delete the environments (results are kept)
	rm -rf .venv .site

.site/ready: pyproject.toml
	$(PYTHON) -m venv .site/venv
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['site'], sep='\n')" \
	  > .site/packages && .site/venv/bin/pip install --quiet --no-compile -r .site/packages
	@touch $@

# The last step of the installation makes the file .venv/ready; without it, the installation is repeated.
.venv/ready: requirements.lock pyproject.toml
	@echo "== environment: .venv, the versions of requirements.lock (once, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "shearbench needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --editable .
	@touch $@

# On top of the environment: the packages of envs/frameworks.yaml, for CI.
.venv/frameworks/ready: envs/frameworks.yaml .venv/ready
	$(BIN)/python -m venv .venv/frameworks
	$(BIN)/python -c "import sysconfig as s; print(f'import site; site.addsitedir({s.get_path(\"purelib\")!r})')" \
	  > "$$(.venv/frameworks/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")/default.pth"
	.venv/frameworks/bin/python -m pip install --quiet --no-compile $$(grep -oE '[a-z-]+==[0-9.]+' envs/frameworks.yaml)
	@touch $@
