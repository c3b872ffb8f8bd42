# Two commands do everything on a bare machine with Python 3.11: `make quickstart` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
S3_STAMP := .venv-s3/.installed
JOBS_STAMP := .venv-jobs/.installed
PYTEST_ARGS ?=

.PHONY: help setup browser network quickstart test check format clean

help:
	@echo "make quickstart  set up, then train a small model, compare it with its base, and export it"
	@echo "make test        set up, check, and run the tests that CI runs (not slow, gpu)"
	@echo "make check       lint, format, types, floors"
	@echo "make browser     install the headless Chromium of the browser tests (Debian, as root); without one they are skipped"
	@echo "make network     install iproute2 for the tests on several hosts (Debian, as root); without it they are skipped"
	@echo "make setup       the environment in $(VENV) only"
	@echo "make format      format the code"

setup: $(STAMP)

# Done again only when the requirements change. torch first and exact: without the pin pip fetches gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The nodes of the cluster that tests submit jobs to: Ray's dashboard and job server, over the environment of the project.
$(JOBS_STAMP): constraints.txt $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/jobcluster.py
	@touch $@

# The S3 server of the tests, in an environment of its own.
$(S3_STAMP): tests/s3/requirements.txt $(STAMP)
	$(BIN)/python tests/s3server.py
	@touch $@

browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; }

network:
	@{ command -v ip && command -v tc && command -v nsenter; } >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 util-linux; }

quickstart: $(STAMP)
	$(BIN)/tunefleet train examples/quickstart.yaml --overwrite
	$(BIN)/tunefleet generate runs/quickstart/export --prompt "Where does Mira live?" --max-new-tokens 24

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check $(S3_STAMP) $(JOBS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs shards studies build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
