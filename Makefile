# Linux, Python 3.11 or newer and make are all that this needs. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-light test-real test-other-pythons check format install install-light lock clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
UV ?= uv
PYTEST_ARGS ?=
# Two at a time where nothing loads real weights: most of these tests wait for processes, not for a core.
WORKERS ?= 2
LIGHT := not real_engine and not crash
# What these show does not depend on the version of Python: other people's clients, documents, figures, a full disk.
ONCE := tests/benchmarks tests/simulation/test_month.py tests/nightbatch/test_compare_answers.py \
  $(addprefix tests/acceptance/test_, openapi.py helper_libraries.py node.py readme.py many_bad_lines.py full_disk.py)

help: ## what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## .venv with everything, vLLM for the CPU included (about 2 GB; instant when nothing changed)
	@python=$$(requirements/find-python) && $$python requirements/install.py $(VENV) cpu

demo: install ## install, start the server, run two real batches through the openai package, show the results, stop
	@$(BIN)/nightbatch demo

test: install ## install, then all tests: simulated engine, other Pythons where present, kills, real engine
	@echo "== tests without a real engine, $$($(BIN)/python --version)"
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not real_engine" $(PYTEST_ARGS)
	@$(MAKE) test-other-pythons
	@$(MAKE) test-real

test-real: install ## only the tests that load real weights into vLLM
	@echo "== tests on the real engine"
	@$(BIN)/python -m pytest -q -m real_engine $(PYTEST_ARGS)

test-other-pythons: ## unit and simulated-engine tests on Python 3.12 and 3.13, where present
	@for version in 3.12 3.13; do \
	  if python=$$(requirements/find-python $$version); then \
	    $(MAKE) test-light PYTHON=$$python PYTEST_ARGS="$(ONCE:%=--ignore=%) $(PYTEST_ARGS)" || exit 1; \
	  else \
	    echo "== skipped: Python $$version, none on the PATH or in pyenv that runs"; \
	  fi; \
	done

test-light: ## unit and simulated-engine tests in an environment without torch: make test-light PYTHON=python3.13
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	$(PYTHON) requirements/install.py .venvs/$$version base && \
	echo "== tests without vLLM, Python $$version" && \
	.venvs/$$version/bin/python -m pytest -q -n $(WORKERS) -m "$(LIGHT)" $(PYTEST_ARGS)

check: install ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## make requirements/*.txt again from pyproject.toml (needs uv: make lock UV=path)
	@env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(UV) pip compile --quiet $(LOCK) --extra cpu requirements/torch-needs.in \
	  --excludes requirements/excludes.txt --output-file requirements/cpu.txt
	@env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(UV) pip compile --quiet $(LOCK) --output-file requirements/base.txt
	@wc -l requirements/cpu.txt requirements/base.txt

LOCK := pyproject.toml requirements/build.in --extra dev --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header

clean: ## remove the environments and caches (data folders stay)
	@rm -rf .venv .venvs .clients .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
