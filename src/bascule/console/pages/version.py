"""`/models/M/V`: what is known of a version: card, gates, lineage, parity, cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Path, Query, Request, Response

from bascule.bundle import Said, overview, parity_plot, read_manifest, sections
from bascule.charts import Node, Series, Svg, lineage, lines
from bascule.console.facts import endpoints_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, console_of, context_of, render, see
from bascule.core import BasculeError, Reference, counted
from bascule.documents import Plot, Section, Text, words
from bascule.jobs import Task
from bascule.release import slice_blocks
from bascule.release.compliance import known_lists

if TYPE_CHECKING:
    from bascule.bundle import Cost, Manifest
    from bascule.control import SettingsShown
    from bascule.registry import Version

router = PageRouter()

_Name = Annotated[str, Path(min_length=1, max_length=128)]
_Number = Annotated[int, Path(ge=1, lt=2**31)]
_FORMS = {
    "html": ("html", "text/html"),
    "markdown": ("md", "text/markdown"),
    "json": ("json", "application/json"),
}
_NAMES = ("run_name", "run_id", "run", "name", "rev")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version.

    Attributes:
        version: The version.
        figures: The few numbers that a reader asks for first.
        sections: Its card; empty if its files cannot be read.
        said: The statements about it.
    """

    version: Version
    figures: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    said: Said


_FIRST = ("Quality", "Fairness", "Fairness in production", "Gates")
"""Sections of a card that are open; the others are folded."""


@router.page("GET /models/{model}/{number}", "read", "{model}")
def one_version(
    request: Request,
    model: _Name,
    number: _Number,
    other: Annotated[int | None, Query(alias="with", ge=1, lt=2**31)] = None,
) -> Response:
    """One version. `?with=N`, of addresses of before, leads to its comparison."""
    if other is not None:
        return see(request, f"/models/{model}/{number}/compare?with={other}")
    context = context_of(request)
    registry = context.registry()
    version = registry.resolve(Reference(model, number=number), retired=True)
    known, problem = _known(registry, version)
    serves = [
        one.name
        for one in endpoints_of(context, current(request))
        if str(version) in one.current.plan.versions
    ]
    aliases = sorted(one.name for one in registry.aliases(model).values() if one.number == number)
    return render(
        request, "version.html", str(version),
        crumbs=[Crumb("Models", "/models"), Crumb(model, f"/models/{model}"), Crumb(str(number))],
        known=known, version=version, problem=problem, aliases=aliases, tags=registry.tags(version),
        serves=serves,
        lineage=lineage_of(known, aliases, serves), charts=charts_of(known.said), first=_FIRST,
        documents=_documents(context.parts.shown), is_alone=len(registry.versions(model)) == 1,
    )  # fmt: skip


@router.page("GET /models/{model}/{number}/plots", "read", "{model}")
def plots(request: Request, model: _Name, number: _Number) -> Response:
    """The plots of the card: ROC, reliability, residuals. The model runs, in a process of its own.

    Drawn once for a digest and kept.
    """
    console = console_of(request)
    version = context_of(request).registry().resolve(Reference(model, number=number), retired=True)
    figures, problem = list[Plot](), ""

    def draw() -> list[Plot]:
        task = Task(kind="plots", input={"model": str(version)}, title=f"plots of {version}")
        return [Plot(**plot) for plot in console.context.jobs().answer(task)]

    try:
        figures = console.kept.get(("plots", version.digest), draw)
    except BasculeError as error:
        problem = str(error)
    return render(request, "plots.html", str(version), figures=figures, problem=problem)


@router.page("GET /models/{model}/{number}/slices", "read", "{model}")
def slices(request: Request, model: _Name, number: _Number) -> Response:
    """Of the held-out rows, the slices that are worse than the others; found once for a digest."""
    console = console_of(request)
    version = context_of(request).registry().resolve(Reference(model, number=number), retired=True)
    asked = {"model": str(version), "held_out": True}
    task = Task(kind="slices", input=asked, title=f"slices of {version}")
    key, jobs = ("slices", version.digest), console.context.jobs()
    try:
        blocks = console.kept.get(key, lambda: slice_blocks(jobs.answer(task)))
    except BasculeError as problem:
        blocks = (Text(f"No slices: {problem}"),)
    return render(request, "slices.html", str(version), blocks=blocks)


@router.page("GET /models/{model}/{number}/documents/{document}", "read", "{model}")
def document(
    request: Request,
    model: _Name,
    number: _Number,
    document: Annotated[str, Path(max_length=128)],
    form: Literal["html", "markdown", "json"] = "html",
) -> Response:
    """A compliance document of a version, as a file."""
    about = {"model": f"{model}/{number}", "document": document}
    task = Task(kind="document", input=about, title=f"{document} of {model}/{number}")
    rendered = context_of(request).jobs().answer(task)[form]
    ending, kind = _FORMS[form]
    name = f'attachment; filename="{model}-{number}-{document}.{ending}"'
    text = json.dumps(rendered, indent=2) if form == "json" else rendered
    return Response(text, media_type=kind, headers={"Content-Disposition": name})


def _documents(shown: SettingsShown | None) -> list[str]:
    """Names of documents: ours, and those of the settings."""
    lists = shown.sections["documents"]["lists"] if shown else ()
    return list(known_lists(map(File, lists)))


def charts_of(said: Said) -> list[Plot]:
    """The charts of parity and cost, where they were measured. Pure."""
    made = []
    if said.parities:
        made.append(parity_plot(said.parities))
    if said.cost is not None and (chart := _cost(said.cost)) is not None:
        made.append(chart)
    return made


def lineage_of(known: Known, aliases: Sequence[str], serves: Sequence[str]) -> Svg:
    """From rows, code and run to the version, its aliases and its endpoints. Pure."""
    origin = known.said.provenance
    sources = [
        Node(f"{name} rows", counted(told["rows"], "row"), str(told.get("sha256", "")))
        for name in ("train", "test", "calibration")
        if (told := origin.get(name))
    ]
    if git := origin.get("git"):
        state = " with changes" if git.get("dirty") else ""
        sources.append(Node(f"git commit{state}", str(git["commit"])[:12], str(git["commit"])))
    runs = [_run(one) for one in origin.get("lineage", ())]
    version = known.version
    columns = [
        sources, runs, [Node("version", str(version), version.digest)],
        [Node("alias", f"@{name}") for name in aliases],
        [Node("endpoint", name) for name in serves],
    ]  # fmt: skip
    said = ", then ".join(
        " and ".join(f"{node.kind} {node.name}" for node in column) for column in columns if column
    )
    return lineage(columns, f"Lineage: {said}")


def _run(entry: Mapping[str, Any]) -> Node:
    kind = str(entry.get("kind", "source"))
    named = next((str(entry[key]) for key in _NAMES if entry.get(key)), kind)
    return Node(f"{kind} run" if kind == "mlflow" else kind, named)


def _known(registry: Any, version: Version) -> tuple[Known, str]:
    """What is known of a version; and why its files cannot be read."""
    said = Said.of(registry.statements(version))
    try:
        manifest: Manifest = read_manifest(registry.path_to_look_at(version), verify=False)
    except BasculeError as problem:
        return Known(version, (), (), said), str(problem)
    figures = [(name, words(value)) for name, value in overview(manifest, said)]
    return Known(version, figures, sections(manifest, said), said), ""


def _cost(cost: Cost) -> Plot | None:
    sizes = sorted({size for one in cost.latency_us.values() for size in one})
    series = []
    for place, times in enumerate(cost.latency_us.values()):
        points = [
            (float(sizes.index(size)), math.log10(max(us, 1e-3) / size))
            for size, us in sorted(times.items())
        ]
        series.append(Series(points, f"line c{place % 6}"))
    named = list(cost.latency_us)
    svg = lines(
        series, ("rows of a call", "µs for a row"), f"Cost of {', '.join(named)} by batch size",
        size=(440, 260), x_names=[f"{size:,}" for size in sizes], powers=True,
    )  # fmt: skip
    if svg is None:
        return None
    colours = ("violet", "orange", "green", "ochre", "purple", "teal")
    said = ", ".join(f"{colour}: {name}" for colour, name in zip(colours, named, strict=False))
    return Plot("Cost", f"Microseconds for a row, by rows of a call. {said.capitalize()}.", svg)
