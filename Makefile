# What a fresh Debian or Ubuntu machine with Python >= 3.10 needs is set up on the way: see scripts/.
#   make demo             the examples, offline, on the built-in images, as whoever calls
#   make test             the tests; as root once for each kind of user (PYTEST_ARGS="-x -k word" reaches pytest)
#   make lint             ruff and strict mypy
#   make wheel            sdist and wheel in dist/, and the wheel tried on each Python that is here, of 3.10 to 3.13:
#                         those on PATH, and pyenv's (PYTHONS="/opt/python3.14/bin/python3" for others); and on 3.10
#                         with the oldest pytest that is allowed
#   make docs             the documentation as a site, in docs/_build; a warning is an error
#   make bench            the figures beside bubblewrap, Docker, buildah and runc (BENCH_ARGS="--rounds 5")
#   make ... PYTHON=/usr/bin/python3.12 VENV=/tmp/venv     another Python, another place for the environment
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
PYTHONS ?= $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/python3)

.PHONY: demo test lint wheel docs bench clean
.DEFAULT_GOAL := test

INSTALLED := $(VENV)/installed

$(INSTALLED): pyproject.toml scripts/make-venv tests/plugin/companions.txt
	@scripts/make-venv '$(PYTHON)' '$(VENV)' --editable '.[dev]'
	@scripts/make-venv '$(PYTHON)' '$(VENV)' --no-deps --upgrade --target '$(VENV)/companions' -r tests/plugin/companions.txt
	@touch $@

demo: $(INSTALLED)
	$(VENV)/bin/python -m pytest -v examples $(PYTEST_ARGS)

test: $(INSTALLED)
	scripts/test-as-each-identity '$(VENV)/bin/python' $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

wheel: $(INSTALLED)
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check build tox
	rm -rf dist
	$(VENV)/bin/python -m build -q
	$(VENV)/bin/python -m tox run-parallel --parallel all $(if $(PYTHONS),--discover $(PYTHONS)) --installpkg dist/*.whl $(TOX_ARGS)

docs: $(INSTALLED)
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[docs]'
	$(VENV)/bin/sphinx-build -q -W --keep-going docs docs/_build

bench: $(INSTALLED)
	@scripts/make-debian-rootfs
	$(VENV)/bin/python -m benchmarks $(BENCH_ARGS)
	$(VENV)/bin/python -m benchmarks.suite
	$(VENV)/bin/python -m benchmarks.pull
	$(VENV)/bin/python -m benchmarks.commits
	$(VENV)/bin/python -m benchmarks.ports
	$(VENV)/bin/python -m benchmarks.databases

clean:
	rm -rf $(VENV) .tox .pytest_cache .mypy_cache .ruff_cache .hypothesis dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
