# `make demo`: from nothing to a prediction. `make quick`: a small change's tests. `make test`: everything that CI runs.
# `make docs`: the book.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Pages are tested in Chromium. Where root can apt-get it, it is installed; elsewhere those tests are skipped, and say so.
BROWSER := { command -v chromium && command -v chromedriver; } >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	echo "no Chromium: tests of pages in a browser are skipped"

.PHONY: demo test quick lint types unit test-hf test-outside docs clean

demo: $(VENV)/core.done
	$(BIN)/memmodel predict --gpu A100 --seq 16384

# Types are checked beside the tests, which leave a core idle at times.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types unit

quick: lint types
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not browser and not compiler and not hf"

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/test.done
	$(BIN)/mypy

unit: $(VENV)/test.done
	$(BIN)/python -m pytest -n auto --dist worksteal

test-hf: $(VENV)/test.done
	$(BIN)/python -m pytest -n auto --dist worksteal -m hf

# timm, diffusers, peft, x-transformers and litgpt, in a folder that no other test sees.
test-outside: $(VENV)/outside.done
	PYTHONPATH=$(VENV)/outside $(BIN)/python -m pytest -n auto --dist worksteal tests/tracer/test_outside_models.py

docs: $(VENV)/test.done
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "the book is build/docs/index.html"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.done: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable .
	touch $@

# torch comes first and by its pinned version, so that nothing else pulls another build of it.
$(VENV)/test.done: $(VENV)/core.done
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt triton psutil filelock hypothesis import-linter matplotlib mypy nbformat pytest pytest-timeout \
		pytest-xdist ruff selenium transformers
	$(PIP) --constraint constraints.txt furo myst-parser sphinx sphinx-click
	$(BROWSER)
	touch $@

# Without what they depend on: torch and transformers are there, and these ask for others of them.
$(VENV)/outside.done: $(VENV)/test.done tests/outside.txt
	rm -rf $(VENV)/outside
	$(PIP) --no-deps --target $(VENV)/outside --requirement tests/outside.txt && touch $@ || \
		echo "packages of tests/outside.txt cannot be installed: their tests are skipped"

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
