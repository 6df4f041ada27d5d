# fastconv: `make help` lists the targets. Each needs nothing but Python 3.11 or later: set-up is made on first use.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PYTEST := --quiet --numprocesses=auto --maxprocesses=4 --dist=loadfile --durations=10

.DEFAULT_GOAL := help
.PHONY: help setup run test coverage test-slow lint bench article results docs dashboard clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment .venv with the pinned packages

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastconv needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --requirement requirements.lock
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## train on the bundled digits, the whole way in about a minute
	$(PY) -m fastconv.train dataset=digits budget.seconds=60

test: $(READY) ## run the tests
	$(PY) -m pytest $(PYTEST)

coverage: $(READY) ## run the tests and measure their coverage, which takes twice as long
	$(PY) -m pytest $(PYTEST) --cov --cov-report=term --cov-fail-under=92

test-slow: $(READY) ## run the tests that take longer, about an hour on two cores
	$(PY) -m pytest --quiet -m slow

lint: $(READY) ## check style, types, and which package imports which
	$(PY) -m ruff check .
	$(PY) -m ruff check --quiet --preview --select PLW1514 fastconv # text has an encoding: that of Windows is its own
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

bench: $(READY) ## measure speed, start-up, memory and budgets; about 110 minutes on two cores, can be stopped and started again
	for each in step ranks winograd micro_batch_size stream store store_memory precompute startup memory budget; do $(PY) benchmarks/$$each.py || exit 1; done

article: $(READY) ## the article, whole, and its page: minutes on a GPU, else days; ARGS="seeds=0 epochs=2 model.width=32" for less
	$(PY) benchmarks/article.py $(ARGS)

results: $(READY) ## make the tables and pages of docs from the rows in benchmarks/results
	$(PY) benchmarks/pages.py

docs: $(READY) ## build the documentation, as dist/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

dashboard: $(READY) ## open TensorBoard on all runs
	$(VENV)/bin/tensorboard --logdir outputs

clean: ## remove what can be made again, but for runs and data
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
