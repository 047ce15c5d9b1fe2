# Two commands matter: `make serve` and `make test`. Both do all set-up by themselves.
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests
PYTEST_FLAGS ?=
SERVE_FLAGS ?=
LOCK := deploy/requirements-cpu.lock
# Where uv finds torch's CPU build; with a mirror: make lock LOCK_FLAGS='--find-links DIR'
LOCK_FLAGS ?= --torch-backend cpu

.DEFAULT_GOAL := help
.PHONY: help setup serve test check format browser pictures chaos bench lock vendor clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml $(LOCK) deploy/setup.sh
	deploy/setup.sh $(VENV)

setup: $(VENV)/.installed ## Create the virtual environment (done by the others as needed)

serve: setup ## Set everything up and answer requests on http://127.0.0.1:8000
	@$(BIN)/palate serve $(SERVE_FLAGS)

test: check ## Set everything up, check and test
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser" $(PYTEST_FLAGS) $(TESTS)

check: setup ## Format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

browser: setup ## The page's tests in a real browser (Debian's chromium)
	$(BIN)/python -m pytest -m "browser and not gpu" $(PYTEST_FLAGS) tests/e2e

pictures: setup ## The README's pictures, from the running page (Debian's chromium)
	$(BIN)/python -m tests.e2e.pictures

chaos: setup ## The slow failure tests
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_FLAGS) $(TESTS)

bench: setup ## Compare with bare vLLM on this machine
	$(BIN)/palate bench overhead

lock: setup ## Resolve the CPU lock anew from pyproject.toml
	$(BIN)/python -m uv pip compile --quiet pyproject.toml --extra cpu --extra dev \
	  --override deploy/lock-overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  $(LOCK_FLAGS) --no-annotate --custom-compile-command "make lock" -o $(LOCK)

vendor: ## Copy the page's JavaScript libraries anew, as deploy/page/package-lock.json has them (needs npm)
	deploy/page/vendor.sh

clean: ## Remove the environment and every cache in this folder (PALATE_HOME stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
