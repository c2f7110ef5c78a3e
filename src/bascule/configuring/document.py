"""The document of `bascule apply`: what endpoints, schedules, keys and silences shall be.

Only what the document names is looked at; an entry with `absent: true` removes. An error names the
place of each wrong value: `endpoints.late.plan.arms[1].version`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bascule.core import BasculeError, Invalid, check_file, check_name

SCHEMA = 1
_MAX_BYTES = 1 << 20


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the document."""


class ArmSpec(Spec, frozen=True):
    """See `endpoints.Arm`."""

    name: str
    version: str
    share_percent: float


class ShadowSpec(Spec, frozen=True):
    """See `endpoints.Shadow`."""

    version: str
    share_percent: float
    tolerance: float = 0.0
    embedding: str = ""


class BreakerSpec(Spec, frozen=True):
    """See `endpoints.BreakerRule`."""

    failures: int
    open_s: float = 10.0


class LimitsSpec(Spec, frozen=True):
    """See `endpoints.CallLimits`."""

    timeout_s: float = 0.0
    retry_percent: float = 0.0


class PlanSpec(Spec, frozen=True):
    """A plan with every arm named; see `endpoints.Plan`."""

    arms: tuple[ArmSpec, ...]
    shadow: ShadowSpec | None = None
    sticky_header: str = "bascule-sticky"
    sticky_field: str = ""
    fallback: str = ""
    slower_than_s: tuple[float, ...] = ()
    breaker: BreakerSpec | None = None
    limits: LimitsSpec | None = None
    holdback_percent: float = 0.0


class DeploySpec(Spec, frozen=True):
    """How a version is deployed; see `release.rollouts.RolloutRequest`."""

    strategy: str = ""
    guards: tuple[str, ...] = ()
    steps_percent: tuple[float, ...] | None = None
    step_s: float | None = None
    max_s: float | None = None
    min_requests: int | None = None
    alpha: float | None = None
    beta: float | None = None
    bake_s: float | None = None
    needs_approval: bool | None = None
    outcomes_sample: float | None = None
    load_tries: int | None = None
    context: tuple[str, ...] = ()


class EndpointSpec(Spec, frozen=True):
    """An endpoint: a version, which is deployed as `deploy` says; or a plan.

    Attributes:
        version: `late/4` or `late@champion`.
        follow: The alias whose moves deploy from then on; `none` for no alias.
        deploy: How.
        plan: In place of a version: every arm with its share.
        absent: Whether there shall be none.
    """

    version: str = ""
    follow: str = ""
    deploy: DeploySpec = DeploySpec()
    plan: PlanSpec | None = None
    absent: bool = False


class ScheduleSpec(Spec, frozen=True):
    """A schedule; see `jobs.Schedule`.

    Attributes:
        job: The fields of a `JOB.toml`.
        folder: That paths of the job are relative to. Default: the folder of the document.
    """

    cron: str = ""
    timezone: str = "UTC"
    catch_up: str = "one"
    retries: int = 0
    retry_after_min: float = 5.0
    job: dict[str, Any] = {}
    folder: str = ""
    paused: bool = False
    absent: bool = False


class KeySpec(Spec, frozen=True):
    """A key of callers: what it allows, such as `infer:late`, and when it ends."""

    allow: tuple[str, ...] = ()
    expires_at: datetime | None = None
    absent: bool = False


class SilenceSpec(Spec, frozen=True):
    """Notifications that are held back until a time, as for maintenance."""

    until: datetime
    why: str
    model: str = "*"
    source: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """What shall be; names are keys of the mappings."""

    endpoints: Mapping[str, EndpointSpec]
    schedules: Mapping[str, ScheduleSpec]
    keys: Mapping[str, KeySpec]
    silences: Mapping[str, SilenceSpec]

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(
            {name: getattr(self, name) for name in _SECTIONS}
        )
        return {"version": SCHEMA, **made}


_SECTIONS: Mapping[str, type[Spec]] = {
    "keys": KeySpec, "endpoints": EndpointSpec, "schedules": ScheduleSpec, "silences": SilenceSpec,
}  # fmt: skip
"""In the order in which changes are made."""

T = TypeVar("T")


def read_document(path: Path) -> Document:
    """The document in a YAML file.

    Raises:
        NotFound: There is no such file.
        Invalid: It is no YAML, says a key twice, or a value is wrong.
    """
    import yaml

    check_file(path, "configuration")
    if path.stat().st_size > _MAX_BYTES:
        raise Invalid(f"{path} is over {_MAX_BYTES:,} bytes")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        said = " ".join(str(problem).split())
        raise Invalid(f"{path} is no YAML: {said}", hint="see docs/how-to") from None
    return parse_document(content, str(path))


def _loader() -> Any:
    """The safe loader, which refuses a key that is there twice in place of taking the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[object] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def parse_document(content: object, place: str = "") -> Document:
    """The document from plain values; raises `Invalid`, which names every wrong place.

    Args:
        content: A mapping.
        place: Where it came from; stands before the places.
    """
    before = f"{place}: " if place else ""
    if not isinstance(content, Mapping):
        raise Invalid(f"{before}a mapping is expected", hint=_HINT)
    known = ("version", *_SECTIONS)
    wrong = [f"{name}: is not known" for name in content if name not in known]
    if content.get("version") != SCHEMA:
        wrong.append(f"version: {content.get('version')!r} is not {SCHEMA}")
    made: dict[str, dict[str, Any]] = {}
    for section, kind in _SECTIONS.items():
        entries = {} if content.get(section) is None else content[section]
        made[section] = {}
        if not isinstance(entries, Mapping):
            wrong.append(f"{section}: a mapping by name is expected")
            continue
        for name, entry in entries.items():
            try:
                made[section][check_name(str(name))] = _converted(entry, kind)
            except (Invalid, msgspec.ValidationError) as problem:
                wrong += [f"{section}.{name}{_placed(problem)}"]
    if wrong:
        raise Invalid(before + "; ".join(map(str, wrong)), hint=_HINT, places=len(wrong))
    return Document(**made)


_HINT = f"sections are {', '.join(_SECTIONS)}, beside version: {SCHEMA}"


def _converted(entry: object, kind: type[T]) -> T:
    made = msgspec.convert(entry or {}, kind)
    for problem in _contradictions(made):
        raise Invalid(problem)
    return made


def _contradictions(made: object) -> Iterator[str]:
    """What a type cannot say of an entry."""
    if isinstance(made, EndpointSpec):
        said = [bool(made.version or made.follow), made.plan is not None, made.absent]
        if sum(said) != 1:
            yield "one of version (or follow), plan and absent is required"
    elif isinstance(made, ScheduleSpec):
        if not made.absent and not (made.cron and made.job):
            yield "cron and job are required, or absent"
    elif isinstance(made, KeySpec):
        if made.absent == bool(made.allow):
            yield "one of allow and absent is required"
        if made.expires_at is not None and made.expires_at.tzinfo is None:
            yield "expires_at: a time zone is required, as in 2027-01-01T00:00:00Z"
    elif isinstance(made, SilenceSpec) and made.until.tzinfo is None:
        yield "until: a time zone is required, as in 2027-01-01T00:00:00Z"


def _placed(problem: Exception) -> str:
    """`.plan.arms[0]: ...` from msgspec's `... - at `$.plan.arms[0]``."""
    if isinstance(problem, BasculeError):
        return f": {problem.message}"
    said, _, at = str(problem).partition(" - at `$")
    said = re.sub(r"^Object ", "", said).replace("`", "")
    return f"{at.rstrip('`')}: {said}"


def with_folder(document: Document, folder: Path) -> Document:
    """The document with a folder for the schedules that name none."""
    named = {
        name: one if one.folder else msgspec.structs.replace(one, folder=str(folder))
        for name, one in document.schedules.items()
    }
    return Document(document.endpoints, named, document.keys, document.silences)
