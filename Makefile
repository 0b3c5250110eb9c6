# Two commands: `make run` and `make test`. Each creates .venv with pinned versions first.
# `make parity` compares with Keras, timm and torchvision, in a venv of its own.
PYTHON ?= python3
ACCELERATOR ?=
DATA ?=
FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-parity
EXTRAS := $(if $(ACCELERATOR),dev$(comma)$(ACCELERATOR),dev)
comma := ,
STAMP := $(VENV)/.installed-$(or $(ACCELERATOR),cpu)

.PHONY: run test lint parity clean

run: $(STAMP)
ifeq ($(DATA),)
	$(BIN)/python -m fer_jax.main --config=configs/smoke.py --workdir=runs/smoke $(FLAGS)
else
	$(BIN)/python -m fer_jax.main --config=configs/b2.py --config.data.path="$(DATA)" $(FLAGS)
endif

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(PEERS)/.installed
	$(PEERS)/bin/python -m pytest -q tests/test_torch_files.py
	$(PEERS)/bin/python -m experiments.parity $(FLAGS)

$(PEERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[parity]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
