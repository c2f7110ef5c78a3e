"""The control API of a test: with the parts that it names, and none of the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from tests.browsers import served

from bascule.control import Parts
from bascule.control.api.application import control_app as app_of
from bascule.serving.specs import default_of
from bascule.serving.workers import ModelState


def control_app(
    server: Any, open_registry: Any, find: Any, guard: Any = None, **parts: Any
) -> FastAPI:
    """See `control.api.control_app`; `parts` are fields of `Parts`."""
    if (jobs := parts.pop("jobs", None)) is not None:
        parts["open_jobs"] = lambda: jobs
    needed = {"open_keys": None, "keys_stale_s": 3_600.0, "check_signature": lambda _: None}
    return app_of(server, find, guard, Parts(open_registry, **{**needed, **parts}))


@contextmanager
def asking(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application, served as `bascule serve` serves it."""
    with served(app) as url, httpx.Client(base_url=url, timeout=60.0) as client:
        yield client


class Services:
    """What two workers serve, of which the first has loaded it; it can be changed."""

    plans = ()

    def __init__(self, *services: Any) -> None:
        self.services = services
        self.problem: Exception | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(service.model for service in self.services)

    def models(self) -> list[ModelState]:
        return [
            ModelState(
                worker=worker, model=service.model, version=service.version,
                is_loaded=worker == 0, size_bytes=10 + worker, inline_rows=0, open_calls=0,
            )
            for service in self.services
            for worker in (0, 1)
        ]  # fmt: skip

    def is_default(self, service: Any) -> bool:
        return default_of(self.services, service.model) is service

    def change(self, wish: Any) -> Any:
        services = wish(self.services)
        if self.problem is not None:
            raise self.problem
        self.services = services
        return services
