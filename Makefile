# Every target sets up its own virtual environment: a machine with python3 (3.11 or newer) and make needs nothing else.
#   make demo      train a small network on real data, derive it, draw a picture      (demo-output/)
#   make test      the test suite;  make test ARGS="-k hessian" for a part of it
#   make examples  every example in its quick form, and the code of the documentation
#   make docs      the documentation as pages in docs/_build/html
#   make lint      ruff, pyright and the doctests
#   make fuzz      random models and options against nested differentiation for 20 minutes;  make fuzz MINUTES=2 SEED=7
#   make slow      the tests that `make test` leaves out because they take minutes
#   make coverage  the test suite with the lines that it executes; after it,
#   make mutants   changes of the engine that no test notices;  make mutants COUNT=50 SEED=7 for a few of them
#   make clean     remove what the targets above wrote
# Another interpreter gets an environment of its own: `make test PYTHON=python3.13` uses .venv-3.13.

ifeq ($(origin PYTHON),undefined)
PYTHON := python3
VENV ?= .venv
else
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif

RUN := $(VENV)/bin/python
WORKERS ?= 2
ARGS ?=
MINUTES ?= 20
SEED ?= 0
COUNT ?= 200
PROVED := .cache/coverage
START := $(shell date +%s)

# Compiled programs are kept between test runs: most of the time of a first run is compilation.
test examples lint coverage mutants: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/.cache/jax
test examples lint coverage mutants: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
test examples lint coverage mutants: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES = -1

# So is the bytecode of the libraries, also where the environment says not to write any: many tests start processes.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/bytecode

# Runs a command, says how long the target took (set-up included) and hands on the exit status.
define timed
@status=0; $(2) || status=$$?; echo "make $(1): $$(( $$(date +%s) - $(START) )) s (set-up included)"; exit $$status
endef

.PHONY: demo test examples fuzz slow coverage mutants docs lint clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed-all
	$(call timed,demo,$(RUN) -m nablax.cli demo --out demo-output)

test: $(VENV)/.installed-dev
	$(call timed,test,$(RUN) -m pytest -n $(WORKERS) --dist loadgroup -q $(ARGS))

examples: $(VENV)/.installed-dev
	$(call timed,examples,$(RUN) -m pytest -n $(WORKERS) -q -m examples $(ARGS))

fuzz: export PYTHONPATH = $(CURDIR)/tests
fuzz: $(VENV)/.installed-dev
	$(call timed,fuzz,$(RUN) -m fuzz --minutes $(MINUTES) --seed $(SEED) $(ARGS))

slow: $(VENV)/.installed-dev
	$(call timed,slow,$(RUN) -m pytest -n $(WORKERS) -q -m slow $(ARGS))

coverage: $(VENV)/.installed-proofs
	@mkdir -p $(PROVED)
	$(call timed,coverage,COVERAGE_FILE=$(PROVED)/data $(RUN) -m pytest -n $(WORKERS) --dist loadgroup -q \
		--cov=nablax --cov-context=test --cov-report=term-missing:skip-covered --junitxml=$(PROVED)/times.xml $(ARGS))

mutants: export PYTHONPATH = $(CURDIR)/tests
mutants: $(VENV)/.installed-proofs
	$(call timed,mutants,$(RUN) -m mutants --count $(COUNT) --seed $(SEED) --workers $(WORKERS) $(ARGS))

docs: $(VENV)/.installed-docs
	$(call timed,docs,$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html)

# The files of src/nablax/models import libraries that may not be there; the examples are in its __init__.
lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(call timed,lint,$(RUN) -m pytest -q --doctest-modules --ignore-glob='*/models/[a-z]*.py' src)

# The stamp is as new as pyproject.toml: changed requirements are installed at the next call.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nablax needs Python 3.11 or newer; $(PYTHON) is older or missing. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install the package python3-venv"; exit 1; }
	@echo "installing nablax[$*] into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) demo-output .cache .pytest_cache .ruff_cache .hypothesis build dist docs/_build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
