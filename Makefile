# make run    the example jobs applied, listed and firing
# make test   all tests; as root also those on booted machines
# Everything either needs is set up first: system packages with apt as root, Python packages in .venv.

VENV := .venv
PYTHON := python3
export PYTHON
PYTEST := $(VENV)/bin/python -m pytest
# Where systemd runs the demonstration uses it; elsewhere it boots a machine that brings its own libraries.
RUN_NEEDS := $(if $(wildcard /run/systemd/system),$(VENV)/ready,)

.PHONY: run test test-fast lint bench clean

run:
	@tests/prepare.sh run
	@$(if $(RUN_NEEDS),$(MAKE) --no-print-directory $(RUN_NEEDS))
	@$(if $(RUN_NEEDS),$(VENV)/bin/python,$(PYTHON)) -m tests.demo

test: $(VENV)/ready
	@tests/prepare.sh machines
	$(PYTEST)

test-fast: $(VENV)/ready
	$(PYTEST) -m "not system"

lint: $(VENV)/ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

bench: $(VENV)/ready
	@tests/prepare.sh bench
	$(VENV)/bin/python -m tests.bench

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sdcron tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml constraints.txt
	@tests/prepare.sh build
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[systemd,test]'
	@touch $@
