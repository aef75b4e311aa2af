# Every target does its own set-up: a virtual environment, a pinned torch, the package built from
# source. On a fresh machine `make demo` is enough.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TRITON := triton==3.9.0
CASES  ?= 100000
PEERS  := build/peers

# Hundreds of processes are started here; without stored bytecode each would compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long peers bench docs lint sdist wheel install clean
.DEFAULT_GOAL := test
# The source distribution and an installation from this folder write the same files.
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/drcl demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# What takes many hours: every fuzz target with many cases (CASES=1000 for fewer), sanitizers, long
# runs, all installs; and a minute beside other libraries.
# Atheris has no build for every Python, and LanceDB is large; the tests of what is missing are skipped.
test-long: $(VENV)/.installed
	-$(BIN)/pip install --quiet atheris
	-$(BIN)/pip install --quiet --constraint constraints.txt 'drcl[lancedb,release]'
	DRCL_FUZZ_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long
	$(MAKE) $(PEERS)/.installed
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest tests/peers -m long

# Metrics and training beside other libraries, with networks that packages bring, exported encoders in
# onnxruntime, indexes in other engines and the examples that need them, in an environment of their own.
peers: $(VENV)/.installed $(PEERS)/.installed
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest tests/peers tests/test_other_evaluators.py tests/test_frameworks.py \
		tests/test_examples_raw_data.py tests/deploy/test_onnx.py tests/index/test_engines.py \
		drcl/index/index.py drcl/deploy/formats.py drcl/metrics/streaming.py \
		tests/storage/test_pretrained.py::TestTheClientItself \
		tests/bench/test_hub_kernels.py::test_the_loader_itself_takes_it

# Measures everything on this machine, then rewrites the README's table and the plots from the results.
bench: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt 'drcl[bench]'
	$(BIN)/drcl bench --out benchmarks/results
	$(BIN)/python -m drcl.benchmarks.suite.publish

# The site, in build/site.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open build/site/index.html in a browser; no server is needed."

# Everything set up, nothing run.
install: $(VENV)/.installed

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy drcl kernels benchmarks setup.py
	$(BIN)/lint-imports

sdist: $(VENV)/.torch
	rm -rf dist
	$(BIN)/python -m build --no-isolation --sdist --outdir dist

# The wheel is made from the source distribution, so a file missing there is missed here.
wheel: sdist
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --no-index --wheel-dir dist dist/*.tar.gz

clean:
	rm -rf $(VENV) build dist drcl.egg-info drcl/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the build needs comes first: the package is compiled against this torch.
# Bytecode is made as modules are imported: of all that is installed here most never are.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch setuptools ninja build
	touch $@

# drcl is there already: what its extra asks for is added, and nothing is compiled again.
$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt 'drcl[docs]'
	touch $@

# The other libraries, one version of each, over what .venv has, which a .pth file brings in.
# Without the trained networks the tests that need them are skipped.
$(PEERS)/.installed: tests/peers/requirements.txt tests/peers/trained.txt | $(VENV)/.torch
	rm -rf $(PEERS)
	$(BIN)/python -m venv --without-pip $(PEERS)
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	$(BIN)/pip --python $(PEERS)/bin/python install --quiet --no-compile --no-deps --requirement tests/peers/requirements.txt
	-$(BIN)/pip --python $(PEERS)/bin/python install --quiet --no-compile --no-deps --requirement tests/peers/trained.txt
	touch $@

# A CUDA build of torch has its own Triton; beside a CPU build it is installed for the interpreter and
# the compile checks.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py $(shell find csrc -type f)
	$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet $(TRITON)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable '.[full,test,lint]'
	touch $@
