"""`/models` and `/models/M`: the versions of a model, its aliases, where it runs, its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from fastapi import Path, Query, Request, Response

from bascule.charts import Series, Svg, lines
from bascule.console.facts import endpoints_of
from bascule.console.session import current
from bascule.console.site import Crumb, context_of, page_router, render

if TYPE_CHECKING:
    from bascule.endpoints import Endpoint
    from bascule.registry import Alias, Event, Found, Model, Version

router = page_router({"GET /models": ("read", ""), "GET /models/{model}": ("read", "{model}")})

_PAGE = 50
_MAX_EVENTS = 30
_MAX_TRENDS = 4
_Name = Annotated[str, Path(min_length=1, max_length=128)]
_Start = Annotated[int, Query(ge=0, le=10**9)]


@dataclass(frozen=True, slots=True)
class ModelsView:
    """One page of the list of models."""

    rows: Sequence[Model]
    total: int
    start: int
    query: str

    @property
    def back(self) -> str:
        return self._address(max(0, self.start - _PAGE)) if self.start else ""

    @property
    def more(self) -> str:
        after = self.start + _PAGE
        return self._address(after) if after < self.total else ""

    @property
    def said(self) -> str:
        return f"{self.start + 1} to {self.start + len(self.rows)} of {self.total}"

    def _address(self, start: int) -> str:
        return f"/models?start={start}" + (f"&q={quote(self.query)}" if self.query else "")


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


@dataclass(frozen=True, slots=True)
class ModelView:
    """What the page of a model shows: the newest versions first, the latest events first."""

    name: str
    rows: Sequence[VersionRow]
    total: int
    start: int
    aliases: Sequence[Alias]
    events: Sequence[Event]
    trends: Sequence[Trend]

    @property
    def back(self) -> str:
        return f"?start={max(0, self.start - _PAGE)}" if self.start else ""

    @property
    def more(self) -> str:
        after = self.start + _PAGE
        return f"?start={after}" if after < self.total else ""

    @property
    def said(self) -> str:
        return f"{self.start + 1} to {self.start + len(self.rows)} of {self.total}"


def model_view(
    name: str,
    versions: Sequence[Version],
    aliases: Sequence[Alias],
    events: Sequence[Event],
    endpoints: Sequence[Endpoint],
    found: Sequence[Found] = (),
    start: int = 0,
) -> ModelView:
    """The page, from facts; versions and events in their order, `found` the newest first. Pure."""
    newest = sorted(versions, key=lambda one: -one.number)[start : start + _PAGE]
    serves: dict[str, list[str]] = {}
    for endpoint in endpoints:
        for version in endpoint.current.plan.versions:
            serves.setdefault(version, []).append(endpoint.name)
    rows = [
        VersionRow(
            one, sorted(alias.name for alias in aliases if alias.number == one.number),
            serves.get(str(one), ()),
        )
        for one in newest
    ]  # fmt: skip
    return ModelView(
        name, rows, len(versions), start, sorted(aliases, key=lambda one: one.name),
        events[::-1][:_MAX_EVENTS], trends_of(found),
    )  # fmt: skip


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


@router.get("/models")
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
    view = ModelsView(registry.models(found[start : start + _PAGE]), len(found), start, q)
    return render(request, "models.html", view, title="Models")


@router.get("/models/{model}")
def one_model(request: Request, model: _Name, start: _Start = 0) -> Response:
    """One model."""
    context = context_of(request)
    registry = context.registry()
    view = model_view(
        model, registry.versions(model), list(registry.aliases(model).values()),
        registry.history(model, latest=_MAX_EVENTS), endpoints_of(context, current(request)),
        registry.search(f'model = "{model}"', limit=_PAGE), start,
    )  # fmt: skip
    crumbs = [Crumb("Models", "/models"), Crumb(model)]
    return render(request, "model.html", view, title=model, crumbs=crumbs)
