# Each target sets up all it needs; a second call reuses the environment.
PYTHON ?= python3
CONFIG ?= cluster/runs/laptop.yaml
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: nightly quality bench test test-fast faults lint docs clean

nightly: .venv/installed  ## events in, published top-k table out (CONFIG=…, DS=YYYY-MM-DD)
	$(BIN)/distilrec nightly --config $(CONFIG) $(if $(DS),--ds $(DS))

quality: .venv/installed-dev  ## compare recipes of a student, with seeds and intervals (CONFIG=cluster/runs/quality_beauty.yaml)
	$(BIN)/distilrec benchmark --config $(if $(filter file,$(origin CONFIG)),cluster/runs/quality_beauty.yaml,$(CONFIG))

bench: .venv/installed-dev  ## speed compared with the peers (needs DISTILREC_DATA; makes the peers' environments in output/peers)
	$(BIN)/python -m tests.benchmarks.speed --data $(DISTILREC_DATA)/beauty

test: .venv/installed-dev  ## lint, types and all tests, two at a time
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(PYTEST)

test-fast: .venv/installed-dev  ## the tests that start no engine
	$(PYTEST) -m "not engine and not e2e and not faults"

faults: .venv/installed-dev  ## what a run must survive, one fault at a time (an hour)
	$(BIN)/pytest -m faults

lint: .venv/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

docs: .venv/installed-docs  ## the API reference, as HTML in output/docs
	mkdir -p output && $(BIN)/python -m jobs.pipeline > output/stages.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file kdlib/docs/mkdocs.yml

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "distilrec needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

# DeepSpeed comes as source; its compiled operators are not used
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (once; some minutes)"
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "installing into .venv with the test tools (once; some minutes)"
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/installed

.venv/installed-docs: pyproject.toml | .venv/bin/python
	@echo "installing into .venv with the tools for the API reference (once; some minutes)"
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv output build *.egg-info .pytest_cache .ruff_cache .hypothesis
