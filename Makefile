# Three commands: `make demo`, `make test`, `make claims`. Each makes its own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ONLY ?=

.PHONY: install demo test claims bench lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainlens needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	touch $@

demo: install
	$(BIN)/brainlens demo --out demo

test: install
	$(BIN)/python -m pytest -q --durations=10

claims: install
	$(BIN)/python tools/claims.py $(if $(ONLY),--only $(ONLY))

bench: install
	$(BIN)/python tools/bench.py

lint: install
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
