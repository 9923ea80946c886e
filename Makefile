# make run    jobs applied, listed and firing: by systemd where it runs, else by sdcron's own engine
# make run-machine   the same on a throw-away machine with systemd, as root
# make test   all tests; as root also those on booted machines
# Everything either needs is set up first: system packages with apt as root, Python packages in .venv.

VENV := .venv
PYTHON := python3
export PYTHON
PYTEST := $(VENV)/bin/python -m pytest
# Without systemd nothing that needs it is built: the engine does with what pip installs.
RUN_VENV := $(if $(wildcard /run/systemd/system),$(VENV),.venv-run)

.PHONY: run run-machine test test-fast lint bench clean

run: $(RUN_VENV)/ready
	@$(RUN_VENV)/bin/python -m tests.demo

run-machine:
	@tests/prepare.sh machine
	@$(PYTHON) -m tests.demo machine

test: $(VENV)/ready
	@tests/prepare.sh machines
	$(PYTEST) -n 2 -o verbosity_assertions=2

test-fast: $(VENV)/ready
	$(PYTEST) -m "not system"

lint: $(VENV)/ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

bench: $(VENV)/ready
	@tests/prepare.sh bench
	$(VENV)/bin/python -m tests.bench
	$(VENV)/bin/python -m tests.bench.engine

clean:
	rm -rf $(VENV) .venv-run build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sdcron tests -name __pycache__ -prune -exec rm -rf {} +

.venv-run/ready: pyproject.toml constraints.txt
	@tests/prepare.sh run
	$(PYTHON) -m venv --clear .venv-run
	.venv-run/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	@tests/prepare.sh build
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[systemd,test]'
	@touch $@
