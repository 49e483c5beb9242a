# Two commands do everything: `make demo` (the main job on real MOSES data) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.installed

.PHONY: demo test lint format install clean

install: kernels

# The stamp is newer than what decides on the packages, so that a second call costs nothing.
$(STAMP): pyproject.toml setup.py constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(f"hyperkit needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	$(PIP) install -c constraints.txt -e '.[mol,potentials,torchsim,notebooks,docs,dev]'
	$(PIP) install --no-deps molsets==0.3.1 fcd_torch==1.0.7
	@touch $(STAMP)

# Compiled when their sources changed; without a compiler everything runs in PyTorch alone.
.PHONY: kernels
kernels: $(STAMP)
	@$(BIN)/python -m hyperkit._ext build --optional

demo: kernels
	$(BIN)/hyperkit-mol demo --output runs/demo

test: kernels
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist *.egg-info
