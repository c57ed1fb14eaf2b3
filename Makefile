# `make demo` runs the main job, `make test` the tests; both set up what they need.
# `make test PYTEST_FLAGS="--own-times 20"` also prints the slowest tests.
PYTHON ?= python3
THREADS ?= 1
# --use-pep517: an older pip fetches what seqeval's source archive needs for its build without what that needs in turn.
PIP_FLAGS ?= --quiet --disable-pip-version-check --use-pep517

VENV := .venv
LATEST := .venv-latest
BROWSER := examples/browser
SOURCES := hf_tinybert tests examples
COMMANDS := tests/cli tests/export tests/report tests/model_card

.PHONY: demo test test-all fuzz mutation browser lint format docs clean \
    test-optimum test-latest test-latest-library test-latest-commands test-all-optimum test-all-latest

demo: $(VENV)/.ready
	$(VENV)/bin/hf-tinybert demo

# Two at a time, the longest first: the newest transformers has about twice as many tests as 4.57, so part of them
# follows on the core that is free first.
test: $(VENV)/.ready $(LATEST)/.ready
	$(MAKE) --jobs 2 test-latest-library lint test-optimum test-latest-commands

# Every test in both versions: pages and examples, slow ones, and those that `make test` runs in one version.
test-all: $(VENV)/.ready $(LATEST)/.ready browser lint docs
	$(MAKE) --jobs 2 test-all-latest test-all-optimum

# the newest transformers 5.x: every test of the default suite
test-latest: test-latest-library test-latest-commands

test-latest-library: $(LATEST)/.ready
	OMP_NUM_THREADS=$(THREADS) $(LATEST)/bin/python -m pytest $(addprefix --ignore=,$(COMMANDS)) $(PYTEST_FLAGS)

test-latest-commands: $(LATEST)/.ready
	OMP_NUM_THREADS=$(THREADS) $(LATEST)/bin/python -m pytest $(COMMANDS) $(PYTEST_FLAGS)

# transformers 4.57 with Optimum's ONNX exporter: the tests that are marked for it
test-optimum: $(VENV)/.ready
	OMP_NUM_THREADS=$(THREADS) $(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

test-all-latest: $(LATEST)/.ready
	OMP_NUM_THREADS=$(THREADS) $(LATEST)/bin/python -m pytest -m "" --every-test $(PYTEST_FLAGS)

test-all-optimum: $(VENV)/.ready
	OMP_NUM_THREADS=$(THREADS) $(VENV)/bin/python -m pytest -m "" --every-test $(PYTEST_FLAGS)

# Tables and damage that hypothesis makes, for as long as FUZZ_EXAMPLES says (100,000 of each kind take hours).
FUZZ_EXAMPLES ?= 20000
fuzz: $(LATEST)/.ready
	OMP_NUM_THREADS=$(THREADS) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(LATEST)/bin/python -m pytest tests/data/test_fuzz.py $(PYTEST_FLAGS)

# What the suite is worth: faults put into a copy of the package, which the tests should find. An hour or two; it goes
# on where it was interrupted (docs/development.md).
mutation: $(LATEST)/.ready
	$(LATEST)/bin/pip install $(PIP_FLAGS) -c constraints/transformers-5.txt -e ".[mutation]"
	OMP_NUM_THREADS=$(THREADS) $(LATEST)/bin/python tests/mutation/run.py

# What the browser's page needs; without npm or Chromium its test is skipped, and says so.
browser:
	@if command -v npm > /dev/null; then \
		$(MAKE) $(BROWSER)/node_modules/.ready || echo "npm could not install: the browser's test is skipped"; fi

$(BROWSER)/node_modules/.ready: $(BROWSER)/package-lock.json
	cd $(BROWSER) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

docs: $(VENV)/.ready
	$(VENV)/bin/pip install $(PIP_FLAGS) -e ".[docs]"
	$(VENV)/bin/mkdocs build --strict

# torch goes first and by its exact version: pip then takes the plain CPU build where there is one.
$(VENV)/.ready: pyproject.toml constraints/transformers-4.57.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(PIP_FLAGS) -c constraints/transformers-4.57.txt torch==2.13.0
	$(VENV)/bin/pip install $(PIP_FLAGS) -c constraints/transformers-4.57.txt -e ".[dev,onnx,peft]"
	touch $@

$(LATEST)/.ready: pyproject.toml constraints/transformers-5.txt
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/pip install $(PIP_FLAGS) -c constraints/transformers-5.txt torch==2.13.0
	$(LATEST)/bin/pip install $(PIP_FLAGS) -c constraints/transformers-5.txt -e ".[dev,onnx-torch,peft]"
	touch $@

clean:
	rm -rf $(VENV) $(LATEST) $(BROWSER)/node_modules demo-output
