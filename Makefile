# The few verbs of the project: `make help` lists them. What they install goes into .venv, nowhere else.
PYTHON ?= python3
VENV ?= .venv
# More options for pip, for `slant segment` and for pytest:
PIP_FLAGS ?=
ARGS ?=
PYTEST_FLAGS ?=

bin := $(VENV)/bin
user := $(VENV)/.installed
dev := $(VENV)/.installed-dev
install := $(bin)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
	--constraint constraints.txt --editable
export T1 OUT

.PHONY: help demo segment test fast lint format docs build clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

demo: $(user) demo/MNI152_T1w.nii.gz ## set up, segment the MNI152 T1 that comes with nilearn, results in demo/results
	@$(bin)/slant segment demo/MNI152_T1w.nii.gz demo/results --force $(ARGS)

demo/MNI152_T1w.nii.gz: | $(user)
	@mkdir -p $(@D)
	@$(bin)/python -c 'from nilearn.datasets import load_mni152_template; \
		load_mni152_template(resolution=1).to_filename("$@")'

segment: scan-given $(user) ## set up, segment your own scan: make segment T1=scan.nii.gz OUT=folder [ARGS="--force"]
	@$(bin)/slant segment "$$T1" "$$OUT" $(ARGS)

.PHONY: scan-given
scan-given:
	@if [ -z "$$T1" ] || [ -z "$$OUT" ]; then \
		echo "Say which scan and where to: make segment T1=scan.nii.gz OUT=folder (quote paths with spaces)" >&2; exit 2; fi
	@if [ ! -f "$$T1" ]; then \
		echo "There is no file T1=$$T1, seen from $$PWD; quote a path with spaces: T1=\"my scan.nii.gz\"" >&2; exit 2; fi

test: lint ## set up, then lint, types, import contracts and all tests
	$(bin)/pytest --durations=10 $(PYTEST_FLAGS)

fast: $(dev) ## the quick tests
	$(bin)/pytest -m "not slow and not gpu" $(PYTEST_FLAGS)

lint: $(dev) ## style, formatting, types and import contracts
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo --no-cache

format: $(dev) ## fix style and formatting
	$(bin)/ruff check --fix
	$(bin)/ruff format

docs: $(dev) ## build the documentation site in site/
	@$(bin)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict

build: $(dev) ## wheel and sdist in dist/
	$(bin)/python -m build --no-isolation

clean: ## remove what demo, build and tests left behind, but not .venv
	rm -rf demo dist build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find slant tests benchmarks experiments -type d -name __pycache__ -prune -exec rm -rf {} +

$(bin)/pip:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "slant needs Python 3.11 or newer and finds no '$(PYTHON)': install it, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else \
		"slant needs Python 3.11 or newer and \"$(PYTHON)\" is %d.%d; name a newer one: make PYTHON=python3.12" % v)'
	@"$(PYTHON)" -m venv "$(VENV)"

$(user): pyproject.toml constraints.txt | $(bin)/pip
	@echo "Installing slant and what it needs into $(VENV); the first time this takes some minutes."
	@$(install) '.[demo]'
	@touch $@

$(dev): pyproject.toml constraints.txt | $(bin)/pip
	@echo "Installing slant with the tools of its developers into $(VENV); the first time this takes some minutes."
	@$(install) '.[dev]'
	@touch $(user) $@
