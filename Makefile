# Two commands do all the set-up on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip --quiet --disable-pip-version-check
PROCESSES ?= 3
export ORT_DISABLE_TELEMETRY := 1

.PHONY: everything parts setup demo test test-all pythons coverage check bench bench-against bench-batch bench-peers \
	bench-storm bench-console bench-flavors bench-explaining bench-drift bench-rollouts bench-outcomes sweep docs site pictures wheel-test lock format clean

setup: $(VENV)/.installed

# The lock file holds exact versions of everything but PyTorch; the project itself is installed on
# top of it.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --editable .
	touch $@

# What pip compiles: some minutes the first time, then from its cache.
COMPILED := llama-cpp-python==0.3.36

# What tests and types need beside. Of PyTorch the package index says which build it has: on some
# machines that is one for graphics processors, of several gigabytes.
everything: $(VENV)/.everything

$(VENV)/.everything: $(VENV)/.installed
	$(PIP) install --constraint requirements.lock --editable '.[torch,privacy]'
	sh tests/install_parts.sh
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PIP) install --constraint requirements.lock $(COMPILED)
	touch $@

demo: setup
	$(RUN)/bascule demo $(ARGS)

test: everything parts
	sh tests/run.sh $(RUN)/python $(PROCESSES) "not slow and" $(ARGS)

test-all: everything parts
	sh tests/run.sh $(RUN)/python $(PROCESSES) "" $(ARGS)

# The light tier on every other Python of the README that this machine has, those of pyenv too.
pythons: setup
	PATH="$$(printf '%s:' $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[123].*/bin)$$PATH" \
		$(RUN)/nox --session $$($(RUN)/python -c \
		"import sys; print(*(f'light-3.{n}' for n in (11, 12, 13) if n != sys.version_info[1]))")

# Branch coverage of each room by the first tier; takes about three times as long.
coverage: everything parts
	$(RUN)/coverage erase
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(RUN)/coverage run -m pytest -m "not slow" -n $(PROCESSES) --dist worksteal $(ARGS) || true
	$(RUN)/coverage combine --quiet
	for room in src/bascule_client/ src/bascule/[a-z]*/; do \
		echo "$$room $$($(RUN)/coverage report --include="$$room*" --format=total) %"; done

# What tests need beside: Debian's PostgreSQL, skopeo, wrk, gcc and Node.js, and environments of what
# does not fit into this one.
parts: everything
	sh tests/install_parts.sh
	$(RUN)/python -m tests.own_environments

check: everything
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

bench: setup
	$(RUN)/python -m bench $(ARGS)

# For one commit beside another: make bench-against REV=HEAD~1
bench-against: setup
	$(RUN)/python -m bench.against $(REV) $(ARGS)

bench-peers: setup
	$(RUN)/python -m bench --peers $(ARGS)

bench-storm: setup
	$(RUN)/python -m bench.storm $(ARGS)

# Batch scoring of Parquet beside its ideal, in about a minute: make bench-batch ARGS="--rows 10000000 --peers".
bench-batch: everything
	$(RUN)/python -m bench.batch $(ARGS)

# False alarms and power of `bascule drift`, beside Evidently and NannyML, in at most an hour of all processors.
bench-drift: setup
	$(RUN)/python -m bench.drift $(ARGS)

# False rollbacks and delay of the sequential tests, by simulation; about 3 minutes of one processor.
bench-rollouts: everything
	$(RUN)/python -m bench.rollouts $(ARGS)

# Rollouts by outcomes that come late, by simulation: 400 a world, hours of one processor; ARGS="--runs 20" for a look.
bench-outcomes: everything
	$(RUN)/python -m bench.outcomes $(ARGS)

# Pages of the console on a large catalogue; ARGS=--beside: what open consoles cost a worker.
bench-console: everything
	$(RUN)/python -m bench.console $(ARGS)

# Explanations beside shap, on one core; ARGS="--peers PYTHON" adds woodelf of another environment.
bench-explaining: everything
	$(RUN)/python -m bench.explaining $(ARGS)

bench-flavors: everything
	$(RUN)/python -m bench.flavors $(ARGS)

sweep: everything
	$(RUN)/python -m bench.sweep $(ARGS)

docs: setup pictures
	$(RUN)/python docs/generate_cli.py
	$(RUN)/python docs/generate_extras.py

pictures: setup
	$(RUN)/python docs/draw_overview.py
	$(RUN)/python -m bench.chart

# The wheel in an empty environment: installed, and asked for a prediction.
wheel-test:
	$(PYTHON) tests/wheel.py

# The pages as a site, in build/site; a warning is an error.
site: setup
	$(RUN)/sphinx-build -q -W --keep-going -b html docs build/site

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# All but torch and what needs it: see above.
EXTRAS := sklearn llvm postgresql delta s3 gcs signing xgboost lightgbm catboost keras dvc mlflow otel oidc demo streams \
	robustness encrypted vault edge optimise automl online wandb texts embeddings retrieval upstream

# Run by maintainers after a change of dependencies; needs uv (pip install uv).
lock:
	uv pip compile --universal --python-version 3.11 --group dev --group docs \
		$(addprefix --extra ,$(EXTRAS)) \
		--constraint requirements.in --no-header --quiet --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
