"""`/models/M/V/compare?with=N`: two versions of a model side by side, what differs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Query, Request, Response

from bascule.console.site import Crumb, PageRouter, context_of, render
from bascule.console.words import cell
from bascule.core import BasculeError, NotFound, Reference, duration_words
from bascule.metrics import METRICS, is_error

if TYPE_CHECKING:
    from bascule.registry import Change, Version

router = PageRouter()

_DIGEST = len("sha256:") + 12
_CHANCE = "No intervals are recorded: a small difference may be chance."
_OTHER_ROWS = " The held-out rows are not the same, so part of a difference may come from them."


@dataclass(frozen=True, slots=True)
class Part:
    """One section of a comparison, such as `metrics`.

    Attributes:
        name: Of the section.
        changes: What differs.
        same: What is equal in both.
        note: What a reader has to know of the figures; empty for nothing.
    """

    name: str
    changes: Sequence[Change]
    same: Sequence[Change]
    note: str = ""


@router.page("GET /models/{model}/{number}/compare", "read", "{model}")
def compare(
    request: Request,
    model: Annotated[str, Path(min_length=1, max_length=128)],
    number: Annotated[int, Path(ge=1, lt=2**31)],
    other: Annotated[int | None, Query(alias="with", ge=1, lt=2**31)] = None,
) -> Response:
    """The page; with the version before this one, if none is named."""
    registry = context_of(request).registry()
    version = registry.resolve(Reference(model, number=number), retired=True)
    versions = registry.versions(model)
    before = _other(versions, version, other)
    parts, problem = list[Part](), None
    try:
        parts = parts_of(registry.side_by_side(before, version))
    except BasculeError as error:  # the files of either cannot be read
        problem = error
    return render(
        request, "compare.html", f"{version} compared with {before}",
        crumbs=[Crumb("Models", "/models"), Crumb(model, f"/models/{model}"),
                Crumb(str(number), f"/models/{version}"), Crumb("Compare")],
        version=version, before=before, parts=parts, problem=problem,
        judgement=judgement, shown=shown,
        others=[one.number for one in versions[::-1] if one.number != number],
    )  # fmt: skip


def _other(versions: Sequence[Version], version: Version, number: int | None) -> Version:
    """The version of a number; without one, the nearest before `version`, else the next."""
    others = [one for one in versions if one.number != version.number]
    if number is not None:
        others = [one for one in others if one.number == number]
    if not others:
        raise NotFound(
            f"{version} has no other version to compare with",
            hint=f"open /models/{version.model} for a list",
        )
    number = version.number
    return max(others, key=lambda one: (one.number < number, -abs(one.number - number)))


def parts_of(changes: Sequence[Change]) -> list[Part]:
    """The sections in which either version has something, those that differ first. Pure."""
    sections = dict.fromkeys(one.section for one in changes)
    has_other_rows = any(one.name == "test.sha256" and not one.is_same for one in changes)
    parts = []
    for name in sections:
        here = [one for one in changes if one.section == name]
        differing = [one for one in here if not one.is_same]
        note = _CHANCE + _OTHER_ROWS * has_other_rows if name == "metrics" else ""
        parts.append(Part(name, differing, [one for one in here if one.is_same], note))
    return sorted(parts, key=lambda part: not part.changes)


def shown(change: Change) -> tuple[str, str, str]:
    """The two values and the change between them, in units for people. Pure."""
    values = [_in_units(change.name, value) for value in (change.before, change.after)]
    has_units = values != [cell(change.before), cell(change.after)] and change.share is not None
    moved = f"{(change.share or 0) * 100:+.1f} %" if has_units else change.moved
    return values[0], values[1], moved


def _in_units(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith(", us"):
            return duration_words(value * 1e-6)
        if name.endswith("bytes"):
            return f"{value / 1e6:,.2f} MB"
    text = cell(value)
    return text[:_DIGEST] if text.startswith("sha256:") else text


def judgement(change: Change) -> str:
    """`better` or `worse` for a metric whose direction is known and a gate; else empty. Pure."""
    if change.before is None or change.after is None:
        return ""
    if change.section == "gates":
        return "better" if change.after == "passed" else "worse"
    if change.section != "metrics" or change.name not in METRICS:
        return ""
    return "better" if (change.after > change.before) != is_error(change.name) else "worse"
