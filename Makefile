# Needs python3 (3.11 or newer) with venv, and make; everything else is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
LOCK := requirements-dev.lock
STAMP := $(VENV)/.installed

DEMO := runs/demo
RECIPE := configs/vp/ddpmpp_cont.py:digits
# 20 evaluations of the network, as good as 201 of the recipe's sampler (docs/results/samplers.md).
FAST := --config.sampling.predictor=unipc --config.sampling.corrector=none \
	--config.sampling.grid=log_snr --config.sampling.steps=19

.DEFAULT_GOAL := help

.PHONY: help venv demo bench smoke lint typecheck test test-all test-lowest test-newest format \
  settings docs dist lock clean

help:  ## show this list
	@echo "make TARGET, with TARGET one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1:\2/p' $(MAKEFILE_LIST) | awk -F: '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=$(PYTHON) (makes the environment), JOBS=$(JOBS) (test processes)"

venv: $(STAMP)  ## make .venv and install the locked versions, if they have changed

$(STAMP): pyproject.toml $(LOCK)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "there is no command $(PYTHON); name a Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is `$(PYTHON) --version`, but Python 3.11 or newer is needed:" \
	       "make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: venv  ## train on the embedded digits, sample, evaluate, and write a report into runs/demo
	$(BIN)/python main.py --config $(RECIPE) --mode train --workdir $(DEMO)
	$(BIN)/python main.py --mode sample --workdir $(DEMO) $(FAST)
	$(BIN)/python main.py --mode eval --workdir $(DEMO)
	$(BIN)/python main.py --mode report --workdir $(DEMO)

bench: venv  ## quality of samples against evaluations, for every sampler on the demo's model
	$(BIN)/python benchmarks/quality.py --workdir $(DEMO) --picture $(DEMO)/quality.png

# The same four commands at reduced length.
SMOKE_TRAIN := --config.training.steps=60
SMOKE_SAMPLE := --config.sampling.num_samples=16 --config.sampling.steps=20
SMOKE_EVAL := --config.eval.metrics=loss,levels,fid --config.eval.num_examples=16 --config.quality.num_samples=16 \
  --config.sampling.steps=20

smoke: venv  ## the demo at reduced length, in a temporary folder
	@set -e; dir=`mktemp -d`; trap 'rm -rf "$$dir"' EXIT; set -x; \
	$(BIN)/python main.py --config $(RECIPE) --mode train --workdir "$$dir/run" $(SMOKE_TRAIN); \
	$(BIN)/python main.py --mode sample --workdir "$$dir/run" $(SMOKE_SAMPLE); \
	$(BIN)/python main.py --mode eval --workdir "$$dir/run" $(SMOKE_EVAL); \
	$(BIN)/python main.py --mode report --workdir "$$dir/run"; \
	test -s "$$dir/run/report.html"

lint: venv  ## ruff, rules and format; hadolint of the Dockerfile
	$(BIN)/hadolint Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

settings: venv  ## write docs/settings.md anew from score_sde/build/
	$(BIN)/python -m score_sde.build.reference > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md

typecheck: venv  ## mypy on score_sde/
	$(BIN)/mypy

test: lint typecheck  ## lint, type check and the fast tests
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: lint typecheck  ## the same with the slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Own environments for the ends of the range of versions that pyproject.toml promises.
test-lowest: venv  ## the fast tests on the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

NEWEST ?= $(shell for p in python3.14 python3.13 python3.12; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)

test-newest: venv  ## the fast tests on the newest versions, with the newest Python found
ifeq ($(NEWEST),)
	@echo "skipped: no python3.12 or newer on PATH; name one with make test-newest NEWEST=/path/to/python3.12"
else
	$(NEWEST) -m venv --clear .venv-newest
	$(BIN)/uv pip install --quiet --python .venv-newest --upgrade -e '.[dev]'
	.venv-newest/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile
endif

# Sphinx and what a release needs stay out of the lock file: own environments, as above.
docs: venv  ## build the documentation site into build/site, in its own environment
	@$(BIN)/python -m venv .venv-docs
	$(BIN)/uv pip install --quiet --python .venv-docs -e '.[docs]'
	.venv-docs/bin/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/site
	@echo "open build/site/index.html"

dist: venv  ## build wheel and source archive into dist/ and check them
	@$(BIN)/python -m venv .venv-dist
	$(BIN)/uv pip install --quiet --python .venv-dist build twine
	rm -rf dist
	.venv-dist/bin/python -m build --quiet
	.venv-dist/bin/python -m twine check --strict dist/*

# One file for every platform and Python from 3.11 on, readable by pip alone.
lock: venv  ## resolve all versions anew into the lock file
	{ echo "# Made by 'make lock' from pyproject.toml with its dev extra; do not edit."; \
	  $(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --quiet; } > $(LOCK).new
	mv $(LOCK).new $(LOCK)

clean:  ## remove environments and caches; runs/ stays
	rm -rf .venv .venv-lowest .venv-newest .venv-docs .venv-dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
