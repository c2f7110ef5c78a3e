# Two commands do all the set-up on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
export ORT_DISABLE_TELEMETRY := 1

.PHONY: parts setup demo test test-all check bench bench-peers bench-storm bench-flavors docs lock format clean

setup: $(VENV)/.installed

# The lock file holds exact versions of everything; the project itself is installed on top of it.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(RUN)/bascule demo $(ARGS)

test: setup parts
	$(RUN)/python -m pytest -m "not slow" $(ARGS)

test-all: setup parts
	$(RUN)/python -m pytest $(ARGS)

# What tests need that no Python package brings: Debian's PostgreSQL, and skopeo.
parts:
	sh tests/install_parts.sh

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

bench: setup
	$(RUN)/python -m bench $(ARGS)

bench-peers: setup
	$(RUN)/python -m bench --peers $(ARGS)

bench-storm: setup
	$(RUN)/python -m bench.storm $(ARGS)

bench-flavors: setup
	$(RUN)/python -m bench.flavors $(ARGS)

docs: setup
	$(RUN)/python docs/generate_cli.py

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# Run by maintainers after a change of dependencies; needs uv (pip install uv).
lock:
	uv pip compile --universal --python-version 3.11 --group dev --all-extras \
		--constraint requirements.in --no-header --quiet --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
