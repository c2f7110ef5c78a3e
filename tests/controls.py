"""The control API of a test: with the parts that it names, and none of the others."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from bascule.control import Parts
from bascule.control.api.application import control_app as app_of


def control_app(
    server: Any, open_registry: Any, find: Any, guard: Any = None, **parts: Any
) -> FastAPI:
    """See `control.api.control_app`; `parts` are fields of `Parts`."""
    if (jobs := parts.pop("jobs", None)) is not None:
        parts["open_jobs"] = lambda: jobs
    needed = {"open_keys": None, "keys_stale_s": 3_600.0, "check_signature": lambda _: None}
    return app_of(server, find, guard, Parts(open_registry, **{**needed, **parts}))
