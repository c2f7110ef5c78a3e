"""Much of the first tier, without PyTorch, on every Python that is supported.

`nox` runs it on the interpreters that the machine has; `nox -s light-3.13` on one. The whole first
tier is `make test`, on one Python. What a release of Python takes away or changes is so in later
ones too, and the lock file has the same NumPy for all but the oldest: the oldest and the newest
Python run all of it, those between what touches the interpreter most, and protocols over HTTP.

`nox -s newest` is for every night: the flavors and the sweep with the newest releases, which the
lock file does not have yet.
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
LEAST = ("core", "security", "client", "app", "metrics", "registry", "configuring")
BETWEEN = (*LEAST, "serving/test_serving_http.py")
ROOMS = (
    *(*LEAST, "stats", "release", "cli", "serving", "catalogue", "endpoints"),
    *("bundle/test_bundle_golden.py", "packing/test_packing_boosted.py"),
)

LIBRARIES = "sklearn,llvm,xgboost,lightgbm,catboost,keras,torch,transformers,demo"
FLAVORS = ["tests/conformance/test_flavors.py", "tests/unit/bundle", "tests/unit/packing"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}

nox.options.sessions = ["light"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"  # pip brings what the lock file has changed
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def light(session: nox.Session) -> None:
    """Install the locked versions, and test the rooms that need no other system."""
    rooms = ROOMS if session.python in (PYTHONS[0], PYTHONS[-1]) else BETWEEN
    session.install("--no-compile", "--requirement", "requirements.lock")  # most is never imported
    session.install("--no-deps", "--editable", ".")
    session.run(
        *("python", "-m", "pytest", "-m", "not slow and not serial", "-n", "2"),
        *(session.posargs or [f"tests/unit/{room}" for room in rooms]),
        env={**ONE_THREAD, "PYTHONDONTWRITEBYTECODE": ""},  # the first process compiles for all
    )


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """Resolve the newest releases of all libraries of models; test the flavors, run the sweep.

    Arguments go to the sweep: `nox -s newest -- --only xgboost`.
    """
    session.install("--upgrade", "pip>=25.1")  # which knows groups of dependencies
    newest_of_all = ("--upgrade", "--upgrade-strategy", "eager")
    session.install(*newest_of_all, "--group", "dev", "--editable", f".[{LIBRARIES}]")
    session.run("python", "-m", "pip", "freeze")
    failed = []
    for what, arguments in {
        "flavors": ["pytest", "-m", "not slow and not serial", "-n", "2", *FLAVORS],
        "sweep": ["bench.sweep", *session.posargs],
    }.items():
        try:
            session.run("python", "-m", *arguments, env=ONE_THREAD)
        except nox.command.CommandFailed:
            failed.append(what)  # the other one tells more of the same releases
    if failed:
        session.error(f"{' and '.join(failed)} failed with the newest releases")
