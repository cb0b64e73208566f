# Three commands: `make demo`, `make test`, `make claims`. Each makes its own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ONLY ?=
WORKERS ?= 2
THREADS ?= 1

.PHONY: install demo test test-avx2 fuzz races mutants claims bench tables docs gallery wheel lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainlens needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	touch $@

demo: install
	$(BIN)/brainlens demo --out demo

# Two processes of one thread each; WORKERS=0 THREADS=2 is one process of two threads.
test: install
	OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) \
	$(BIN)/python -m pytest -q --durations=10 -n $(WORKERS) --dist loadfile

# What hangs on the digits of a processor: phantom, solvers, networks, models and the claims on them, with AVX2 and one thread.
NUMERICAL := tests/phantom tests/nn tests/metrics tests/models tests/attribution tests/encode/test_start.py tests/encode/test_refit.py \
	tests/align/test_start.py tests/attribute/test_sanity.py tests/attribute/test_brain.py tests/test_constant_channels.py
test-avx2: install
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	$(BIN)/python -m pytest -q $(NUMERICAL)

# Every reader against 2,000 mutated files, every writer 100 times against another one, and the suite against wrong arithmetic.
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py $(if $(ONLY),--only $(ONLY))

races: install
	BRAINLENS_RACES=100 $(BIN)/python -m pytest -q tests/faults/test_writers.py

mutants: install
	$(BIN)/python tools/mutants.py $(if $(ONLY),--only $(ONLY))

claims: install
	$(BIN)/python tools/claims.py $(if $(ONLY),--only $(ONLY))

bench: install
	$(BIN)/python tools/bench.py

# Every figure of the pages from claims/*.json and docs/benchmarks.json, without measuring; names words that these deny.
tables: install
	$(BIN)/python tools/bench.py --page
	$(BIN)/python tools/claims.py --page

# The documentation as a site in site/; a broken link or anchor is an error. `gallery` runs the examples for its figures.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

gallery: install
	cd docs/gallery && for script in ../../examples/*.py; do \
	  case $$script in */report_page.py) ;; *) $(abspath $(BIN))/python $$script || exit 1;; esac; done

# The wheel installed alone in an environment of its own, beside the libraries of .venv: it brings its data files and runs the demo,
# every verb at a small size, to its page.
wheel: install
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m venv build/wheel/alone
	build/wheel/alone/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$(build/wheel/alone/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth
	cd build/wheel && alone/bin/brainlens --help >/dev/null \
	  && alone/bin/brainlens demo --train 120 --test 24 && test -s demo/report.html

lint: install
	$(BIN)/ruff check src tests benchmarks tools examples
	$(BIN)/ruff format --check src tests benchmarks tools examples
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
