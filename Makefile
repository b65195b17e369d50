# Blocks to Tokens: `make help` lists what can be done.
#
# Needed: Python 3.11 to 3.14 with pip, and make (GNU, 3.81 or newer). All else is installed in .venv, in this
# folder, by start.py. All paths are relative: this folder may have spaces in its name.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test test-arm lessons bench quality site slides bundle lock peer clean install-lab install-test

PYTHON ?=
ARGS ?=
PY := .venv/bin/python
export PYTHON

# Settings of a shell or of pip that would mix other packages in.
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0

# $(call start,COMMAND): start.py does the work, here as where there is no make; any Python 3 runs it.
define start
@for python in $(if $(PYTHON),"$(PYTHON)") python3 python3.14 python3.13 python3.12 python3.11 python; do \
    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null \
        && exec "$$python" start.py $(1); \
done; \
echo "Python 3.11 to 3.14 is needed; found none. Install one: https://www.python.org/downloads"; exit 1
endef

help: ## print this
	@echo "Blocks to Tokens"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-15s %s\n", $$1, $$2 }'
	@echo
	@echo "  make lab ARGS=--no-browser       options for JupyterLab"
	@echo "  make lessons ARGS=PATH           run one lesson only"
	@echo "  PYTHON=python3.12 make lab       choose the Python that .venv is made with"

lab: ## set up, copy new lessons to work/ (keeping what you changed), open JupyterLab there
	$(call start,lab $(ARGS))

test: ## set up, then check style, run all tests and all lessons
	$(call start,test)

test-arm: install-test ## run the kernels' tests as ARM code, under emulation (Debian or Ubuntu)
	@$(PY) tests/arm/emulate.py $(ARGS)

lessons: ## run all lessons and save their outputs in notebooks/
	$(call start,lessons $(ARGS))

bench: ## print the performance tables of this machine
	$(call start,bench)

lock: install-test ## write constraints.txt anew: the newest versions within pyproject.toml's bounds
	@$(PY) -m pip install --disable-pip-version-check --quiet "uv>=0.9,<1"
	@{ sed -n '/^#/p' constraints.txt; $(PY) -m uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	    --extra test --no-header --no-annotate pyproject.toml; } > constraints.new && mv constraints.new constraints.txt

quality: install-test ## make the tables of lesson 26 again: needs `make peer`, takes half an hour
	@$(PY) -m blocks2tokens.course.lessons.quality_and_mixes.record
	@$(PY) -m blocks2tokens.course.lessons.quality_and_mixes.record_smollm2

# llama.cpp with the instructions of this CPU, but without AMX, whose path has crashed on virtual machines; with
# SIMD=avx2 or SIMD=avxvnni another one without AVX-512, beside the first. Without pip's cache, which would take
# a build with other flags for this one.
PEER_FLAGS := -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF
PEER_WHERE := -e ".[peer]"
ifneq ($(filter avx2 avxvnni,$(SIMD)),)
PEER_FLAGS := -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAVA_BUILD=OFF
PEER_FLAGS += $(if $(filter avxvnni,$(SIMD)),-DGGML_AVX_VNNI=ON)
PEER_WHERE := --no-deps --upgrade --target .venv/peer-$(SIMD) "$$($(PY) -c 'import tomllib; \
    print(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peer"][0])')"
endif
ifeq ($(shell uname -m),x86_64)
PEER_FLAGS += -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8
endif

site: install-lab ## build the course as a site in site/, which needs nothing from outside
	@$(PY) -m pip install --disable-pip-version-check --quiet -e ".[site]"
	@$(PY) -m blocks2tokens.course.setup.site $(ARGS)

bundle: install-lab ## fill bundle/ for a USB stick: the course, both models, wheels; ARGS=--help says for whom
	@$(PY) -m blocks2tokens.course.setup.bundle $(ARGS)

slides: install-lab ## write decks of the lessons' figures to slides/, one for each part
	@$(PY) -m blocks2tokens.course.classroom.slides $(ARGS)

peer: install-test ## build llama.cpp for this CPU (some minutes), for `make bench` to measure beside ours
	CMAKE_ARGS="$(PEER_FLAGS)" $(PY) -m pip install --disable-pip-version-check --no-cache-dir \
	    --no-binary llama-cpp-python $(PEER_WHERE)

clean: ## remove .venv and caches; never work/, never data/models/
	rm -rf .venv .arm .pytest_cache .ruff_cache .ipynb_checkpoints lib/blocks2tokens.egg-info
	find lib tests data notebooks -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@echo "Kept: work/ (your copy of the lessons) and data/models/ (downloaded models)."

install-lab:
	$(call start,setup lab)

install-test:
	$(call start,setup test)
