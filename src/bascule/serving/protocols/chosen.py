"""Which protocols a server speaks, and on which paths those whose paths can be chosen.

Apart from the protocols themselves, because the supervisor must not load what a worker needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bascule.core import Invalid

_PATHS: dict[str, tuple[str, ...]] = {
    "oip": ("/v2",),
    "tfserving": ("/v1/models",),
    "invocations": (
        "/ping",
        "/health",
        "/version",
        "/models",
        "/execution-parameters",
        "/invocations",
        "/endpoints",
        "/serving-endpoints",
    ),
    "vertex": (),
    "azureml": ("/", "/score", "/swagger.json"),
    "openai": ("/openai", "/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/models"),
}
"""The paths of each protocol, and what is below them is also theirs. Vertex AI's can be chosen;
those of its clients, below `/v1/projects`, are no other protocol's."""

SERVER_PATHS = ("/metrics",)
"""Paths of the server itself, which no choice takes away."""

_OUTCOMES = re.compile(r"/v2/models/[^/]+/outcomes")

PROTOCOL_NAMES = tuple(_PATHS)
"""Every protocol, by the names of `table.PROTOCOLS`."""


@dataclass(frozen=True, slots=True)
class ChosenProtocols:
    """Which protocols the workers show.

    Attributes:
        names: Of `PROTOCOL_NAMES`.
        vertex_health_route: The path of Vertex AI's health question.
        vertex_predict_route: The path of its predictions.
    """

    names: tuple[str, ...] = PROTOCOL_NAMES
    vertex_health_route: str = "/vertex/health"
    vertex_predict_route: str = "/vertex/predict"


EVERY_PROTOCOL = ChosenProtocols()


def choose_protocols(
    names: tuple[str, ...], vertex_health_route: str, vertex_predict_route: str
) -> ChosenProtocols:
    """The protocols in `names`; without names all, except those whose paths Vertex AI was given.

    Raises:
        Invalid: A route is none, or is a path of the server or of a protocol that is wanted;
            `facts["field"]` is the setting.
    """
    routes = {
        "vertex_health_route": vertex_health_route,
        "vertex_predict_route": vertex_predict_route,
    }
    for setting, route in routes.items():
        if not re.fullmatch(r"/[!-~]*", route) or re.search(r"[?#]", route):
            raise Invalid(
                f"{route!r} is not a path", hint="send for example /predict", field=setting
            )
    wanted = names or PROTOCOL_NAMES
    if "vertex" in wanted:
        for setting, route in routes.items():
            if _is_below(route, SERVER_PATHS) or _OUTCOMES.fullmatch(route):
                raise Invalid(
                    f"{route} is a path of the server itself",
                    hint="choose another path",
                    field=setting,
                )
            for protocol in wanted:
                if not _is_below(route, _PATHS[protocol]):
                    continue
                if names or protocol == "oip":
                    raise Invalid(
                        f"{route} is a path of the protocol {protocol!r}",
                        hint="choose another path, or leave that protocol out of serving.protocols",
                        field=setting,
                    )
                wanted = tuple(name for name in wanted if name != protocol)
    return ChosenProtocols(wanted, vertex_health_route, vertex_predict_route)


def _is_below(route: str, paths: tuple[str, ...]) -> bool:
    route = route.rstrip("/") or "/"
    return any(
        route == path or (path != "/" and route.startswith((f"{path}/", f"{path}:")))
        for path in paths
    )
