# One command per intent. `make` lists them; PYTHON and TORCH can be overridden: make test PYTHON=python3.12
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs-installed

.PHONY: help demo test check docs site families clean
.DEFAULT_GOAL := help

help: ## list what can be made
	@grep -hE '^[.a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv: $(STAMP) ## install the package and its tools into .venv

# torch on its own and first, so that its source can be chosen; the rest then keeps it
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## localize text rendering in an embedded model, offline
	$(BIN)/t2iprobe patch --arch sd3

test: $(STAMP) ## run the tests; one torch thread a worker, and two workers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check: $(STAMP) ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# what builds the site, which no test needs
$(DOCS): $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@touch $(DOCS)

site: $(DOCS) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: site ## build the documentation and run what it shows
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m docs $(PYTEST_ARGS)

families: $(STAMP) ## run every method on every family, and write the page about it
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/families.py > docs/reference/architectures.md

clean: ## remove everything that was made
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
