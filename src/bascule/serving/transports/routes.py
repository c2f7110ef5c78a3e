"""Routes: which handler answers a method of a path, and what its caller must be allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bascule.security import Action
from bascule.serving.telemetry import MetricSeries
from bascule.serving.transports.exchange import Exchange
from bascule.serving.transports.statuses import HttpError

Handler = Callable[[Exchange], None]


class About(NamedTuple):
    """What a route takes and answers, for the OpenAPI document.

    Attributes:
        answer: The JSON Schema of the answer; empty for anything.
        takes: That of the body; None where there is none.
        example: A body that is answered.
        content_type: The media type of the answer.
        other_types: The media types that bodies and answers may have instead of JSON.
        answer_types: Those that answers alone may have.
        statuses: Of answers that are no errors.
    """

    answer: dict[str, Any]
    takes: dict[str, Any] | None = None
    example: Any = None
    content_type: str = "application/json"
    other_types: tuple[str, ...] = ()
    answer_types: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)


class Route(NamedTuple):
    """One method of one path.

    A protocol names all of it, so that neither a caller's rights nor the counting of its requests
    can be forgotten.

    Attributes:
        method: `b"GET"` also answers HEAD.
        path: The exact bytes.
        handle: Answers an exchange, at once or later.
        action: What a caller must be allowed to do.
        model: To which model; empty where the path is of none.
        series: Where answers are counted; None for what is no inference.
        protocol: The name of the protocol that offers it.
        about: Says what it takes and answers; asked only when somebody wants to know.
    """

    method: bytes
    path: bytes
    handle: Handler
    action: Action
    model: str = ""
    series: MetricSeries | None = None
    about: Callable[[], About] | None = None
    protocol: str = ""


Routes = dict[bytes, dict[bytes, Route]]
"""Routes by the exact bytes of the path, then by method."""


def table(routes: Iterable[Route]) -> Routes:
    """The routes by path and method; two of the same are a mistake of the program."""
    made: Routes = {}
    for route in routes:
        methods = made.setdefault(route.path, {})
        for method in (b"GET", b"HEAD") if route.method == b"GET" else (route.method,):
            if method in methods:
                raise ValueError(f"{method!r} {route.path!r} is routed twice")
            methods[method] = route
    return made


def not_allowed(method: bytes, methods: Iterable[bytes]) -> HttpError:
    """The error for a path that is there, but not with this method."""
    allow = ", ".join(sorted(one.decode() for one in methods))
    return HttpError(
        f"{method.decode()} is not allowed here", hint=f"use {allow}", status=405, allow=allow
    )
