"""`/models` and `/models/M`: the versions of a model, its aliases, where it runs, its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query, Request, Response

from bascule.charts import Series, Svg, lines
from bascule.console.facts import endpoints_of
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, render

if TYPE_CHECKING:
    from bascule.endpoints import Endpoint
    from bascule.registry import Alias, Found, Version

router = PageRouter()

_PAGE = 50
_MODELS = 25
"""Models of a page of the list: each takes two queries."""
_MAX_EVENTS = 30
_MAX_TRENDS = 4
_Name = Annotated[str, Path(min_length=1, max_length=128)]
_Start = Annotated[int, Query(ge=0, le=10**9)]


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version in the table.

    Attributes:
        version: The version.
        aliases: Those that point to it.
        serves: The endpoints whose current plan needs it.
    """

    version: Version
    aliases: Sequence[str]
    serves: Sequence[str]

    @property
    def state(self) -> str:
        """`retired`, `deprecated`, or empty."""
        if self.version.retired:
            return "retired"
        return "deprecated" if self.version.deprecated else ""


@dataclass(frozen=True, slots=True)
class Trend:
    """A metric over the versions: the latest value, and a line of all."""

    name: str
    latest: float
    line: Svg


def version_rows(
    versions: Sequence[Version], aliases: Sequence[Alias], endpoints: Sequence[Endpoint]
) -> list[VersionRow]:
    """The lines of the table of versions. Pure."""
    serves: dict[str, list[str]] = {}
    for endpoint in endpoints:
        for version in endpoint.current.plan.versions:
            serves.setdefault(version, []).append(endpoint.name)
    return [
        VersionRow(
            one, sorted(alias.name for alias in aliases if alias.number == one.number),
            serves.get(str(one), ()),
        )
        for one in versions
    ]  # fmt: skip


def trends_of(found: Sequence[Found]) -> list[Trend]:
    """The metrics that most versions have, over these versions in their order. Pure."""
    numbers = sorted(one.version.number for one in found)
    values: dict[str, list[tuple[float, float]]] = {}
    for one in sorted(found, key=lambda one: one.version.number):
        for name, value in one.metrics.items():
            place = float(numbers.index(one.version.number))
            values.setdefault(name, []).append((place, value))
    names = sorted(values, key=lambda name: (-len(values[name]), name))[:_MAX_TRENDS]
    made = []
    for name in names:
        points = values[name]
        said = ", ".join(f"{y:.4g} in version {numbers[int(x)]}" for x, y in points[-3:])
        svg = lines(
            [Series(points)], ("version", name), f"{name}: {said}",
            size=(340, 190), x_names=[str(one) for one in numbers],
        )  # fmt: skip
        if svg is not None and len(points) > 1:
            made.append(Trend(name, points[-1][1], svg))
    return made


@router.page("GET /models", "read")
def models(
    request: Request, q: Annotated[str, Query(max_length=128)] = "", start: _Start = 0
) -> Response:
    """The list."""
    session = current(request)
    registry = context_of(request).registry()
    found = [
        one
        for one in registry.model_names()
        if q.lower() in one.lower() and session.allows("read", one)
    ]
    return render(
        request, "models.html", "Models", rows=registry.models(found[start : start + _MODELS]),
        total=len(found), query=q, pager=pager_of("/models", start, _MODELS, len(found), q=q),
    )  # fmt: skip


@router.page("GET /models/{model}", "read", "{model}")
def one_model(request: Request, model: _Name, start: _Start = 0) -> Response:
    """One model."""
    context = context_of(request)
    registry = context.registry()
    versions = registry.versions(model)[::-1]
    aliases = sorted(registry.aliases(model).values(), key=lambda one: one.name)
    endpoints = endpoints_of(context, current(request))
    return render(
        request, "model.html", model, crumbs=[Crumb("Models", "/models"), Crumb(model)],
        name=model, rows=version_rows(versions[start : start + _PAGE], aliases, endpoints),
        total=len(versions), pager=pager_of("", start, _PAGE, len(versions)), aliases=aliases,
        events=registry.history(model, latest=_MAX_EVENTS)[::-1],
        trends=trends_of(registry.search(f'model = "{model}"', limit=_PAGE)),
    )  # fmt: skip
