# Blocks to Tokens: `make help` lists what can be done.
#
# Needed: Python 3.11 to 3.14 with pip, and make (GNU, 3.81 or newer). All else is installed in .venv, in this
# folder. A step that is broken off is done again by the next run: a stamp in .venv is written last, and holds
# what was installed for (pyproject.toml and this folder's path), so that pip runs only when that changes.
# All paths are relative: this folder may have spaces in its name.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test test-arm lessons bench peer clean venv install-lab install-test smollm2

PYTHON ?=
ARGS ?=
PY := .venv/bin/python

# Settings of a shell or of pip that would mix other packages in.
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0

# Threads of BLAS that have nothing to do sleep after 2^16 cycles, not 2^26: see lib/blocks2tokens/__init__.py.
export OPENBLAS_THREAD_TIMEOUT ?= 16

help: ## print this
	@echo "Blocks to Tokens"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-15s %s\n", $$1, $$2 }'
	@echo
	@echo "  make lab ARGS=--no-browser       options for JupyterLab"
	@echo "  make lessons ARGS=PATH           run one lesson only"
	@echo "  PYTHON=python3.12 make lab       choose the Python that .venv is made with"

lab: install-lab smollm2 ## set up, copy new lessons to work/ (keeping what you changed), open JupyterLab there
	@$(PY) -m blocks2tokens.course.setup.workspace
	@$(PY) -m blocks2tokens.course.setup.warm_up
	@exec $(PY) -m blocks2tokens.course.setup.jupyter $(ARGS)

# Lines of progress show only where a cell is slow: without them its outputs are the same on every machine.
test: install-test smollm2 ## set up, then check style, run all tests and all lessons
	@$(PY) -m blocks2tokens.course.setup.warm_up
	@summary=""; \
	step() { \
	    name="$$1"; shift; start=$$(date +%s); \
	    printf '\n== %s: %s\n' "$$name" "$$*"; \
	    if "$$@"; then result=passed; else result=FAILED; fi; \
	    summary="$$summary$$(printf '  %-8s %s  %s s' "$$name" "$$result" "$$(($$(date +%s) - start))")|"; \
	}; \
	step lint    $(PY) -m ruff check .; \
	step format  $(PY) -m ruff format --check .; \
	step tests   $(PY) -m pytest --doctest-modules lib tests; \
	export TQDM_DISABLE=1; \
	step lessons $(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 notebooks; \
	printf '\n== summary\n'; printf '%s' "$$summary" | tr '|' '\n'; \
	case "$$summary" in *FAILED*) exit 1;; esac

test-arm: venv ## run the kernels' tests as ARM code, under emulation (Debian or Ubuntu)
	@$(PY) tests/arm/emulate.py $(ARGS)

lessons: install-test smollm2 ## run all lessons and save their outputs in notebooks/
	@$(PY) -m blocks2tokens.course.setup.notebooks $(ARGS)

bench: install-test smollm2 ## print the performance tables of this machine
	@$(PY) -m blocks2tokens.benchmarks

# llama.cpp with the instructions of this CPU, but without AMX, whose path has crashed on virtual machines; with
# SIMD=avx2 a second one without AVX-512, beside the first.
PEER_FLAGS := -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF
PEER_WHERE := -e ".[peer]"
ifeq ($(SIMD),avx2)
PEER_FLAGS := -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAVA_BUILD=OFF
PEER_WHERE := --no-deps --upgrade --target .venv/peer-avx2 "$$($(PY) -c 'import tomllib; \
    print(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peer"][0])')"
endif
ifeq ($(shell uname -m),x86_64)
PEER_FLAGS += -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8
endif

peer: install-test ## build llama.cpp for this CPU (some minutes), for `make bench` to measure beside ours
	CMAKE_ARGS="$(PEER_FLAGS)" $(PY) -m pip install --disable-pip-version-check \
	    --no-binary llama-cpp-python $(PEER_WHERE)

clean: ## remove .venv and caches; never work/, never data/models/
	rm -rf .venv .arm .pytest_cache .ruff_cache .ipynb_checkpoints lib/blocks2tokens.egg-info
	find lib tests data notebooks -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@echo "Kept: work/ (your copy of the lessons) and data/models/ (downloaded models)."

# A .venv that runs is kept, unless PYTHON asks for another version than it has. The pip that comes with Python
# may be too old to show how far it has got with installing; a newer one is welcome, but not needed.
venv:
	@supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'; \
	version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	if [ ! -e .venv/incomplete ] && $(PY) -c "import pip; $$supported" 2>/dev/null && { [ -z "$(PYTHON)" ] \
	    || [ "$$("$(PYTHON)" -c "$$version" 2>/dev/null)" = "$$($(PY) -c "$$version")" ]; }; then exit 0; fi; \
	chosen=""; bare=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    "$$candidate" -c "$$supported" 2>/dev/null || continue; \
	    if "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then chosen="$$candidate"; break; fi; \
	    bare="$$candidate"; \
	done; \
	if [ -z "$$chosen" ] && [ -n "$$bare" ]; then \
	    echo "$$bare has no venv or no ensurepip, so it cannot set up an environment."; \
	    echo "On Debian and Ubuntu they are in a package of their own:"; \
	    echo "    sudo apt install python$$("$$bare" -c "$$version")-venv"; \
	    exit 1; \
	elif [ -z "$$chosen" ]; then \
	    echo "Python 3.11 to 3.14 is needed; found: $$("$(or $(PYTHON),python3)" --version 2>&1 | head -n 1)"; \
	    echo "Install one (https://www.python.org/downloads), or name one that you have:"; \
	    echo "    PYTHON=python3.12 make lab"; \
	    exit 1; \
	fi; \
	echo "Making .venv with $$("$$chosen" --version) ..."; \
	"$$chosen" -m venv --clear --without-pip .venv && touch .venv/incomplete \
	    && $(PY) -m ensurepip --default-pip && rm .venv/incomplete || exit 1; \
	$(PY) -m pip install --disable-pip-version-check --retries 1 --upgrade "pip>=25.1" || true

# $(call install,STAMPS,REQUIREMENT): run pip unless one of the stamps holds; write the first one.
stamp = { pwd -P; cat pyproject.toml; }
define install
	@for name in $(1); do $(stamp) | cmp -s - .venv/$$name.stamp 2>/dev/null && exit 0; done; \
	echo "Installing into .venv. The first time takes some minutes ..."; \
	if ! $(PY) -m pip install --disable-pip-version-check --prefer-binary -e "$(2)"; then \
	    echo; \
	    echo "Installing failed; pip's reason stands above. Without a network: connect and run this again."; \
	    echo "Where a package does not build, another Python may have it ready: PYTHON=python3.12 make lab"; \
	    exit 1; \
	fi; \
	for name in $(1); do $(stamp) > .venv/$$name.stamp; break; done
endef

install-lab: venv
	$(call install,lab test,.[course])

install-test: venv
	$(call install,test,.[test])

smollm2:
	@$(PY) data/fetch_smollm2.py
