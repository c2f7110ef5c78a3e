"""The first tier without PyTorch and without systems beside it, on every Python that is supported.

`nox` runs it on the interpreters that the machine has; `nox -s light-3.13` on one. The whole first
tier is `make test`, on one Python.
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
ROOMS = [
    f"tests/unit/{room}"
    for room in ("core", "stats", "security", "client", "app", "release", "cli")
]

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def light(session: nox.Session) -> None:
    """Install the locked versions, and test the rooms that need no other system."""
    session.install("--requirement", "requirements.lock")
    session.install("--no-deps", "--editable", ".")
    session.run(
        *("python", "-m", "pytest", "-m", "not slow and not serial", "-n", "2"),
        *(session.posargs or ROOMS),
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
    )
