# The commands of the README. They make an environment in .venv on first use.
PYTHON ?= python3
VENV ?= .venv
# One thread per process: the plan fixes it for runs, and it is fastest for tests on few cores.
export OMP_NUM_THREADS ?= 1
# The pins hold for the build environment too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

READY := $(VENV)/.ready

.PHONY: demo test test-slow bench bench-federation bench-openfold3 bench-esm lint sample workspaces locks clean

demo: $(READY)
	$(VENV)/bin/openfl-flows simulate experiment=demo out=runs/demo-$$(date +%Y%m%d-%H%M%S)

# In the order of the files: the long ones first, so that both processes end together.
test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m slow

bench: $(READY)
	for kernels in torch native; do for precision in float32 bfloat16; do \
	  $(VENV)/bin/python -W ignore -m tests.bench.digress --kernels $$kernels --precision $$precision \
	  || exit 1; done; done
	$(VENV)/bin/python -W ignore -m tests.bench.digress --preset small --kernels native --precision bfloat16
	$(VENV)/bin/python -m tests.bench.memory
	$(VENV)/bin/python -m tests.bench.codecs

# Federations at size, with OpenFL's own classes beside them: a quarter of an hour or more.
bench-federation: $(READY)
	$(VENV)/bin/python -W ignore -m tests.bench.federation --full

# OpenFold3 at its published size: half an hour, 12 GB of memory, 20 GB of disk.
bench-openfold3: $(READY)
	$(VENV)/bin/python -W ignore -m tests.bench.openfold3

# ESM-2: training and embedding beside padded batches, bytes of a round; FASTA=FILE for lengths of your own.
bench-esm: $(READY)
	$(VENV)/bin/python -W ignore -m tests.bench.esm $(if $(FASTA),--fasta $(FASTA))

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# The embedded molecules and proteins made again: needs tblite, about two minutes.
sample: $(READY)
	$(VENV)/bin/pip install -q '.[sample]'
	$(VENV)/bin/python -m openfl_flows.data.make_sample --out openfl_flows/data/samples/molecules.csv
	$(VENV)/bin/python -m openfl_flows.data.make_protein_sample --out openfl_flows/data/samples/proteins.fasta

# The checked-in workspaces rendered again.
workspaces: $(READY)
	rm -rf workspaces/digress workspaces/esm workspaces/openfold3 workspaces/toy
	$(VENV)/bin/openfl-flows export experiment=demo workspaces/digress
	$(VENV)/bin/openfl-flows export experiment=esm_scl workspaces/esm
	$(VENV)/bin/openfl-flows export experiment=of3_demo workspaces/openfold3
	$(VENV)/bin/openfl-flows export experiment=toy workspaces/toy

# What images are built from: every package with the hashes of its files. Where PyTorch's index is
# not reached, TORCH='--find-links FOLDER' with its wheel.
LOCKS := openfl_flows/deploy/locks
TORCH ?= --torch-backend cpu
LOCK = uv pip compile --quiet --no-config --generate-hashes --no-annotate --no-header \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint constraints.txt
locks:
	{ echo "# Made by \`make locks\`: all that an aggregator runs on, in the versions of constraints.txt."; \
	  $(LOCK) $(LOCKS)/aggregator.in; } > $(LOCKS)/aggregator.txt.new
	{ echo "# Made by \`make locks\`: all that a site runs on, in the versions of constraints.txt."; \
	  $(LOCK) $(TORCH) pyproject.toml; } > $(LOCKS)/site.txt.new
	for role in aggregator site; do mv $(LOCKS)/$$role.txt.new $(LOCKS)/$$role.txt; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $(READY)
