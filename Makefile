# Two commands: `make run` and `make test`. Each creates .venv with pinned versions first.
# `make docs` builds the documentation into site/, `make pretrained` the weights that
# configs/b2_lite2.py starts from. `make parity` compares with Keras, timm and torchvision,
# `make bench` times against PyTorch, TensorFlow and ONNX Runtime; each in a venv of its own.
PYTHON ?= python3
ACCELERATOR ?=
DATA ?=
FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-parity
BENCH := .venv-bench
comma := ,
EXTRAS := $(if $(ACCELERATOR),dev$(comma)$(ACCELERATOR),dev)
BENCH_EXTRAS := $(if $(ACCELERATOR),bench$(comma)$(ACCELERATOR),bench)
BENCH_STAMP := $(BENCH)/.installed-$(or $(ACCELERATOR),cpu)
STAMP := $(VENV)/.installed-$(or $(ACCELERATOR),cpu)

define environment
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(1)
endef

.PHONY: run demo test test-all browser slurm fuzz faults lint docs pretrained parity bench clean

run: $(STAMP)
ifeq ($(DATA),)
	$(BIN)/python -m fer_jax.main --config=configs/smoke.py --workdir=runs/smoke $(FLAGS)
else
	$(BIN)/python -m fer_jax.main --config=configs/b2_scratch.py --config.data.path="$(DATA)" $(FLAGS)
endif

# A photograph and drawn faces, recognised with the shipped weights.
demo: $(STAMP)
	$(BIN)/python -m experiments.demo --output=runs/demo

# What a user relies on; test-all adds real kills, several processes, hostile files, whole grids,
# installing and downloads: tests/slow/ and what is marked slow.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/slow -m "not slow"

test-all: test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# What the page is tried in: Debian's Chromium, where root may install it, driven by playwright-core.
# Where either cannot be had, that test is skipped and says so.
test-all: browser
browser:
	@command -v chromium > /dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; } > /dev/null || true
	@test -d .browser/node_modules || npm install --silent --prefix .browser playwright-core@1.65.1 || true

# A scheduler for this machine alone, which tests/slow/test_cluster.py starts and stops; likewise.
test-all: slurm
slurm:
	@command -v slurmctld > /dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge; } > /dev/null || true

# 10,000 damaged inputs over all readers; resumes where it was stopped.
fuzz: $(STAMP)
	$(BIN)/python -m experiments.fuzz $(FLAGS)

# 50 commands killed at random moments and started again; resumes where it was stopped.
faults: $(STAMP)
	$(BIN)/python -m experiments.faults $(FLAGS)

# ImageNet weights that a package holds, for configs/b2_lite2.py.
pretrained: $(PEERS)/.installed
	$(PEERS)/bin/python -m experiments.pretrained

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

parity: $(PEERS)/.installed
	$(PEERS)/bin/python -m pytest -q tests/test_torch_files.py
	$(PEERS)/bin/python -m experiments.parity $(FLAGS)

$(PEERS)/.installed: pyproject.toml constraints.txt
	$(call environment,$(PEERS))
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[parity]'
	@touch $@

bench: $(BENCH_STAMP)
	$(BENCH)/bin/python -m experiments.benchmark $(FLAGS)

# TensorFlow 2.21 wants an older h5py, which the extra names.
$(BENCH_STAMP): pyproject.toml constraints.txt
	$(call environment,$(BENCH))
	grep -v '^h5py==' constraints.txt > $(BENCH)/constraints.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(BENCH)/constraints.txt --editable '.[$(BENCH_EXTRAS)]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(BENCH) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
