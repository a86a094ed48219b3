# `make demo` and `make test` set everything up on a fresh machine, then do their work.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Bytecode is compiled when a module is first imported, which most modules never are.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo test lint tutorials clean

demo: $(VENV)/.installed
	$(BIN)/vaeppl demo --out runs/demo

test: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

tutorials: $(VENV)/.installed-for-tests
	$(BIN)/python tutorials/run.py

clean:
	rm -rf $(VENV) build *.egg-info runs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) -e '.[test,notebooks]'
	touch $@
