# make demo, make test, make tutorials, make docs, make bench: each sets up .venv first, once.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip
STAMP = $(VENV)/.softrsa-installed

.PHONY: demo test bench tutorials docs lint check setup clean

demo: setup
	$(BIN)/softrsa align --demo --out results/

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

bench: setup
	$(BIN)/python benchmarks/table.py

tutorials: setup
	OMP_NUM_THREADS=1 $(BIN)/python .ci/notebooks

docs: setup
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	MPLBACKEND=Agg $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The documentation is docs/_build/html/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test

setup: $(STAMP)

# The CPU build of torch comes first, so that nothing else draws in the CUDA build of several GB.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	$(PIP) install -q -c constraints.txt torch setuptools wheel
	@echo "Building torchsort, which takes a minute or two ..."
	@.ci/without_nvcc $(PIP) install -q --no-build-isolation --no-deps -c constraints.txt torchsort \
		> $(VENV)/torchsort.log 2>&1 \
		|| echo "torchsort was not built (see $(VENV)/torchsort.log); softrsa works without it."
	$(PIP) install -q -c constraints.txt -e ".[dev,demo]"
	@touch $@

clean:
	rm -rf $(VENV) results build dist docs/_build docs/tutorials docs/gallery
