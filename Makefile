# make demo    install into .venv and run the main job: candidates, predictions, relaxations, a table, an HTML page
# make test    install into .venv and run the test suite
# make test-cluster   the tutorials of clusters typed command by command, SLURM, killed workers
# make test-fast   the tests without servers, browsers, trainings, potentials and scripts
# make coverage    the suite, and which lines it runs
# make lint    ruff and mypy
# make docs    build the documentation into site/; every warning is an error
# make test-lowest   the quick tests with the oldest versions that pyproject.toml allows, in .venv-lowest
# make test-newest   all tests with the newest versions there are, in .venv-newest
#
#   make demo N=4             only the first four candidates
#   make demo ENGINE=gpaw     three candidates with a real DFT code (installs the extra; needs g++ and Python's headers)
#   make test JOBS=1          the tests in one process; without it in one per core, four at most
#   make PYTHON=python3.12    another Python, 3.11 or newer

PYTHON ?= python3
VENV   ?= .venv
ENGINE ?= chgnet
N      ?=
JOBS   ?= auto
OUT    ?= runs/demo

# small cells gain nothing from more threads, and lose much where others want the cores, too
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

BIN   := $(VENV)/bin
READY := $(VENV)/.installed
GPAW  := $(VENV)/.installed-gpaw
DOCS  := $(VENV)/.installed-docs
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

ifeq ($(ENGINE),gpaw)
ENGINE_READY := $(GPAW)
endif

.PHONY: demo test test-cluster test-fast coverage lint docs test-lowest test-newest install clean
.DEFAULT_GOAL := install

install: $(READY)

demo: $(READY) $(ENGINE_READY)
	$(BIN)/python workflows/02_screen_substitutions.py --engine $(ENGINE) $(if $(N),--n $(N)) --out $(OUT)

# a file of tests stays in one process, as its fixtures may be costly
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15

test: $(READY)
	$(PYTEST) -m "not cluster"

test-cluster: $(READY)
	$(PYTEST) -m cluster

test-fast: $(READY)
	$(PYTEST) -m "not slow"

coverage: $(READY)
	$(PYTEST) --cov=e3relax_flows --cov-report=term:skip-covered

# scripts: names, arguments and abstract classes only
LAX := $(addprefix --disable-error-code ,arg-type assignment func-returns-value has-type misc return-value var-annotated)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --allow-untyped-defs --no-warn-unused-ignores $(LAX) benchmarks/*.py workflows/*.py

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# pytest's filters are lifted: old packages warn of what they were changed for
LOWEST := tests/core tests/schemas tests/graphs tests/predict tests/stores tests/ledger tests/candidates \
  tests/registry tests/prerelax tests/screening/test_screen.py tests/cli/test_app.py tests/cli/test_predict_command.py \
  tests/engines/test_mlip_engine.py tests/engines/test_registry.py tests/places/test_local.py tests/places/test_submission.py \
  tests/test_imports.py

test-lowest:
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip compile --quiet --resolution lowest-direct --python $(VENV)-lowest/bin/python \
	  --extra mlip --extra fireworks pyproject.toml -o $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python -r $(VENV)-lowest/lowest.txt \
	  $(shell grep -hE '^(pytest|hypothesis|secantusdb)==' constraints.txt)
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --no-deps -e .
	$(VENV)-lowest/bin/python -m pytest -o filterwarnings= $(LOWEST)

# torch stays the tested one: another may be another build
test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(shell grep -hE '^torch==' constraints.txt) -e '.[dev]'
	$(VENV)-newest/bin/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "e3relax-flows needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV) >/dev/null && test -x $(BIN)/pip; } || { \
	  rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' does not work; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (once; some minutes)"
	$(PIP) -e '.[dev]'
	@touch $@

$(GPAW): $(READY) configs/gpaw_siteconfig.py
	@command -v g++ >/dev/null || { \
	  echo "GPAW is compiled by pip and needs a C++ compiler and Python's headers;" >&2; \
	  echo "on Debian and Ubuntu: apt-get install g++ python3-dev" >&2; exit 1; }
	@echo "compiling GPAW (once; some minutes)"
	CC=g++ GPAW_CONFIG=$(abspath configs/gpaw_siteconfig.py) $(PIP) -e '.[dev,gpaw]'
	@touch $@

$(DOCS): $(READY)
	$(PIP) -e '.[dev,docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest site .pytest_cache .mypy_cache .ruff_cache
