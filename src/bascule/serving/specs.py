"""What is served: the list that the supervisor tells its workers, and what changes make of it.

Apart from the workers' own modules, because the supervisor must not load what a worker needs. The
changes are pure: a list and a wish in, a list out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

from bascule.core import Conflict, NotFound, check_name
from bascule.endpoints import Plan, own_part


@dataclass(frozen=True, slots=True)
class Notice:
    """What answers of a deprecated version announce.

    Attributes:
        since_s: When it was deprecated, in seconds since 1970.
        sunset_s: When it ends; None for no date.
        successor: The version to use instead, `MODEL/NUMBER`; empty for none.
        is_over: Whether the sunset has passed.
    """

    since_s: int
    sunset_s: int | None = None
    successor: str = ""
    is_over: bool = False

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """`Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link` (RFC 5829)."""
        made = [("Deprecation", f"@{self.since_s}")]
        if self.sunset_s is not None:
            made.append(("Sunset", formatdate(self.sunset_s, usegmt=True)))
        if self.successor:
            path = f"/v2/models/{self.successor.replace('/', '/versions/')}"
            made.append(("Link", f'<{path}>; rel="successor-version"'))
        return tuple(made)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version that a worker serves.

    Attributes:
        model: The name that requests use.
        version: The version that answers carry.
        path: The bundle's folder.
        labels: The aliases by which it was named; requests of TensorFlow Serving may use them. Not
            compared: a version with another label need not be loaded again.
        is_planned: Whether the plan of an endpoint needs it; its own name then does not answer. Not
            compared, for the same reason.
        notice: Of a deprecated version; None for no deprecation. Not compared, for the same reason.
    """

    model: str
    version: str
    path: Path
    labels: tuple[str, ...] = field(default=(), compare=False)
    is_planned: bool = field(default=False, compare=False)
    notice: Notice | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "path": str(self.path),
            "labels": self.labels,
            "is_planned": self.is_planned,
            "notice": None if self.notice is None else asdict(self.notice),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelSpec:
        labels = tuple(value.get("labels", ()))
        is_planned = value.get("is_planned", False)
        said = value.get("notice")
        notice = None if said is None else Notice(**said)
        path = Path(value["path"])
        return cls(value["model"], value["version"], path, labels, is_planned, notice)


Plans = tuple[Plan, ...]
"""The plans of the endpoints that are served, one for each."""

ModelSpecs = tuple[ModelSpec, ...]
"""What is served. The first version of a model is its default; no version is there twice."""


def check_specs(services: ModelSpecs) -> ModelSpecs:
    """`services` if their names can stand in a path and a label; raises `Invalid`."""
    for service in services:
        check_name(service.model)
        check_name(service.version, what="version")
    return services


def loaded(services: ModelSpecs, new: ModelSpec, *, default: bool = False) -> ModelSpecs:
    """With `new` beside the others, or before the other versions of its model.

    The same version from another folder takes the place of the one that is there.
    """
    same = next((one for one in services if _is_same(one, new)), None)
    if same is not None:
        services = tuple(new if one is same else one for one in services)
    else:
        services = (*services, new)
    return _with_default(services, new) if default else services


def swapped(services: ModelSpecs, new: ModelSpec) -> ModelSpecs:
    """With `new` in the place of the default version of its model; the other versions stay."""
    before = default_of(services, new.model)
    services = loaded(services, new, default=True)
    if before is None or _is_same(before, new):
        return services
    return tuple(one for one in services if not _is_same(one, before))


def unloaded(services: ModelSpecs, model: str, version: str | None = None) -> ModelSpecs:
    """Without a version, or without the only version of a model.

    Raises:
        NotFound: It is not served.
        Conflict: It is the default, and requests for the plain name would be answered by another
            version unasked; or there are several, and none was named.
    """
    versions = [one for one in services if one.model == model]
    if not versions:
        names = ", ".join(sorted({one.model for one in services})) or "no models"
        raise NotFound(f"{model!r} is not served", hint=f"served are {names}")
    told = ", ".join(one.version for one in versions)
    if version is None and len(versions) > 1:
        raise Conflict(f"{model} is served in versions {told}", hint="say which one to unload")
    gone = next((one for one in versions if version in (None, one.version)), None)
    if gone is None:
        raise NotFound(f"{model}/{version} is not served", hint=f"versions served are {told}")
    if gone is versions[0] and len(versions) > 1:
        raise Conflict(
            f"{model}/{version} is the default version of {model}, and others are served",
            hint="make another one the default first, or swap",
        )
    return tuple(one for one in services if one is not gone)


def without(services: ModelSpecs, model: str) -> ModelSpecs:
    """Without any version of a model; raises `NotFound` if none is served."""
    while len(versions := [one for one in services if one.model == model]) > 1:
        services = unloaded(services, model, versions[-1].version)
    return unloaded(services, model)


def planned(services: ModelSpecs, plans: Plans, needed: ModelSpecs) -> ModelSpecs:
    """With the versions that plans need, and without those that no plan needs any more.

    Of a model whose name is an endpoint, nothing else stays.

    Args:
        services: What is served now.
        plans: The plans to serve.
        needed: Every version that they need.
    """
    endpoints = {plan.endpoint for plan in plans}
    kept = [one for one in services if not one.is_planned and one.model not in endpoints]
    more = [replace(one, is_planned=True) for one in needed if one not in kept]
    return (*kept, *dict.fromkeys(more))


def left_out(services: ModelSpecs, plans: Plans, version: str) -> tuple[ModelSpecs, Plans] | None:
    """What is served without a version of plans that cannot be loaded; its share goes to the rest.

    Returns:
        None: It is served for itself, or is the current version of an endpoint.
    """
    kept = tuple(one for one in services if f"{one.model}/{one.version}" != version)
    if any(not one.is_planned for one in services if one not in kept):
        return None
    parts = []
    for plan in plans:
        part = own_part(plan, {*plan.versions} - {version}) if version in plan.versions else plan
        if part is None or plan.current.version == version:
            return None
        parts.append(part)
    return kept, tuple(parts)


def noticed(services: ModelSpecs, notices: Mapping[str, Notice]) -> ModelSpecs:
    """With the notices of deprecated versions, by `MODEL/VERSION`, and without any other."""
    return tuple(replace(one, notice=notices.get(f"{one.model}/{one.version}")) for one in services)


def is_the_same(services: ModelSpecs, others: ModelSpecs) -> bool:
    """Whether workers have nothing to change: also the fields that are not compared are equal."""
    return services == others and all(
        (one.notice, one.is_planned) == (other.notice, other.is_planned)
        for one, other in zip(services, others, strict=True)
    )


def check_unplanned(plans: Plans, name: str) -> None:
    """Raise `Conflict` if a plan says what the name answers."""
    plan = next((one for one in plans if one.endpoint == name), None)
    if plan is not None:
        raise Conflict(
            f"{name!r} is an endpoint, and plan {plan.number} says which versions answer it",
            hint=f"bascule deploy MODEL/VERSION --to {name} changes the plan",
        )


def check_absent(services: ModelSpecs, model: str) -> None:
    """Raise `Conflict` if a version of the model is served."""
    there = default_of(services, model)
    if there is not None:
        raise Conflict(
            f"{model!r} is loaded, from {there.path}",
            hint=f"unload it first: DELETE /models/{model}",
        )


def default_of(services: ModelSpecs, model: str) -> ModelSpec | None:
    """The version that answers to the plain name."""
    return next((one for one in services if one.model == model), None)


def _with_default(services: ModelSpecs, new: ModelSpec) -> ModelSpecs:
    """Moved before the other versions of its model, where the first of them is now."""
    first = default_of(services, new.model)
    made: list[ModelSpec] = []
    for one in services:
        if one is first:
            made.append(new)
        if not _is_same(one, new):
            made.append(one)
    return tuple(made)


def _is_same(one: ModelSpec, other: ModelSpec) -> bool:
    return (one.model, one.version) == (other.model, other.version)
