# Every target sets up what it needs first. `make mini` and `make test` are all a newcomer needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# The pins are made for Python 3.11: it is taken where it runs, else python3.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Jobs use one thread each and run side by side; nothing outside Snakemake should use more.
export OMP_NUM_THREADS ?= 1
# uv, as pip, trusts the system's certificates: a company may have an authority of its own.
export UV_SYSTEM_CERTS ?= 1

.PHONY: help setup mini test lint bench docs docs-serve pins clean

help:
	@echo 'make setup  install the pinned environment into .venv (about a minute, once)'
	@echo 'make mini   the whole experiment on the embedded suite: tables, figures, report'
	@echo 'make test   all tests'
	@echo 'make lint   ruff, mypy, snakefmt, snakemake --lint'
	@echo 'make bench  time the hot paths (benchmarks/run.py) and print a table'
	@echo 'make docs   build the documentation site into build/site'
	@echo 'make docs-serve  show it at http://127.0.0.1:8000, built again when a page changes'
	@echo 'make pins   resolve envs/requirements.txt, envs/torch.yaml and envs/docs.txt again'
	@echo 'make clean  remove what mini and the tests made; never the results of another run'

setup: .venv/installed

.venv/installed: envs/requirements.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or later is needed: install it, or name it with make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r envs/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# What the site is built with lies in the same .venv.
.venv/docs-installed: .venv/installed envs/docs.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r envs/docs.txt
	@touch $@

mini: setup
	$(BIN)/snakemake --cores all --configfile config/mini.yaml
	@echo; cat results/mini/tables/table2.md
	@echo; cat results/mini/tables/table3.md
	@echo; echo 'Report: $(CURDIR)/results/mini/report.html'

# Two files of tests side by side, slow ones first (tests/conftest.py).
test: setup .venv/docs-installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup .venv/docs-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

bench: setup
	$(BIN)/python benchmarks/run.py

# PYTHONPATH: for tools/docs/equations.py, which mkdocs.yml names as a Markdown extension.
docs docs-serve: export PYTHONPATH := tools/docs
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

docs: setup .venv/docs-installed
	$(BIN)/python tools/docs/pages.py
	$(BIN)/mkdocs --quiet build --strict --clean
	@echo 'Site: $(CURDIR)/build/site; `make docs-serve` shows it'

docs-serve: setup .venv/docs-installed
	$(BIN)/python tools/docs/pages.py
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000 --watch src --watch tools/docs

# Both files hold the same pins: conda gets them one by one, because Snakemake copies the
# environment's file elsewhere before it reads it.
pins: setup
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 \
	  --python-platform x86_64-unknown-linux-gnu --extra dev pyproject.toml -o envs/requirements.txt
	{ sed -n '1,/- pip:/p' envs/torch.yaml; sed 's/^/      - /' envs/requirements.txt; } > envs/torch.yaml.new
	mv envs/torch.yaml.new envs/torch.yaml
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 \
	  --python-platform x86_64-unknown-linux-gnu -c envs/requirements.txt envs/docs.in -o envs/docs.txt

clean:
	for task in $$(grep -l '^embedded:' config/tasks/*.yaml); do \
	  rm -rf results/shared/*/"$$(basename "$$task" .yaml)"; done
	rm -rf results/mini results/nano results/nano-language results/shared/embedded results/shared/encoders/embedded-*
	rm -rf results/shared/store  # of every run: only what changes replaced is in no other place
	rm -rf build/site
	rm -rf .pytest_cache .ruff_cache .mypy_cache
