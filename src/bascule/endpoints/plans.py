"""The plan of an endpoint: which versions answer it, each with its share of the requests. Pure.

A plan never changes: a change of an endpoint is a plan with the next number.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import msgspec

from bascule.core import BasculeError, Invalid, Reference, check_name
from bascule.endpoints.steering import ContextPolicy

SCHEMA = 4
"""Of the JSON form. A plan with a greater number is refused. A plan is written with the smallest
number that has its fields, so that earlier releases follow it too."""
_SINCE = {"breaker": 2, "limits": 2, "holdback_percent": 3, "context": 3, "timed_parts": 4}
"""Fields, and their schema; other fields have schema 1."""

CURRENT, CANDIDATE, PREVIOUS = "current", "candidate", "previous"
"""The usual names of arms. `previous` has no share: it stays loaded for a rollback."""
HOLDBACK = "holdback"
"""The arm of held-back requests: the current version answers, and callers do not act on it."""

KEY_UNITS = 16_384
"""Keys fall into so many units by `unit`. Those of one unit have one arm, but where a share ends
in it. A unit is what a rollout counts once where requests have keys."""

MAX_ARMS = 16
MAX_THRESHOLDS = 6
MAX_TIMED_PARTS, _MAX_PART_NAME = 4, 31
MAX_SLOWER_S = 3_600.0
_MAX_HOLDBACK_PERCENT = 50.0
MAX_FAILURES = 1_000_000
_MAX_HEADER = 64
_SHARES_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of a plan.

    Attributes:
        name: `current`, `candidate`, or a name of the user's.
        version: `MODEL/NUMBER`.
        share_percent: Its share of the requests, from 0 to 100. With 0 it is loaded and warm, and
            answers only requests that name the arm.
    """

    name: str
    version: str
    share_percent: float


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that answers a sample of the requests after their clients have their answers.

    Attributes:
        version: `MODEL/NUMBER`.
        share_percent: The share of the requests that it answers too, over 0 and to 100.
        tolerance: The greatest absolute difference at which two numbers agree. Of texts the
            greatest distance, from 0 to 1: of edits, or of embeddings.
        embedding: The version that embeds texts for their distance, which the server serves too;
            empty for the distance of edits.
    """

    version: str
    share_percent: float
    tolerance: float = 0.0
    embedding: str = ""


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When an arm is not asked any more; see `serving.execution.ResiliencePolicy`.

    Attributes:
        failures: So many failures in a row open the breaker; 0 for no breaker.
        open_s: How long it stays open before a call runs as a probe.
    """

    failures: int
    open_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What a call of an arm may take.

    Attributes:
        timeout_s: How long the version may take; 0 for the deadline of the request.
        retry_percent: The percentage of calls that may be tried once more after the process of
            the model died.
    """

    timeout_s: float = 0.0
    retry_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of an endpoint; raises `Invalid` if it cannot be one.

    Attributes:
        schema: Of its JSON form: the smallest number that has its fields.
        endpoint: The name that requests use.
        number: From 1; each change of the endpoint has the next one.
        arms: The versions that answer; their shares add up to 100.
        shadow: None for no shadow.
        sticky_header: The request header with the key of the assignment, in lower case; requests
            with the same key get the same arm. Empty for no header.
        sticky_field: The input whose first value is the key of requests without the header; empty
            for none.
        fallback: The version that answers where an arm fails, `MODEL/NUMBER`; empty for none.
        slower_than_s: Durations; the answers that take longer are counted. At most 6.
        rollout: The id of the rollout that made the plan; empty for none.
        breaker: Of each arm; None for the settings of its model (`serving.models`).
        limits: Likewise.
        holdback_percent: The share of the requests, or of the keys, that get the arm `holdback`,
            before the others have theirs. Their outcomes are of no answer, so that a model can be
            trained and judged on them: callers do not act on such an answer.
        context: How requests without a sticky key are steered by their inputs; None for by chance.
        timed_parts: Of a rollout of compositions, the parts whose times its guards compare.
    """

    schema: int = field(init=False, default=1, repr=False, compare=False)
    endpoint: str
    number: int
    arms: tuple[Arm, ...]
    shadow: Shadow | None = None
    sticky_header: str = "bascule-sticky"
    sticky_field: str = ""
    fallback: str = ""
    slower_than_s: tuple[float, ...] = ()
    rollout: str = ""
    breaker: BreakerRule | None = None
    limits: CallLimits | None = None
    holdback_percent: float = 0.0
    context: ContextPolicy | None = None
    timed_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_schema(self.schema)  # of what a decoder has read
        newer = [schema for name, schema in _SINCE.items() if getattr(self, name)]
        object.__setattr__(self, "schema", max(newer, default=1))
        _check(self)

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that the plan needs, each once, in the order of the arms."""
        more = ([self.shadow.version] if self.shadow else []) + [self.fallback]
        return tuple(dict.fromkeys([*(arm.version for arm in self.arms), *filter(None, more)]))

    @property
    def current(self) -> Arm:
        """The arm `current`; the one with the greatest share in a plan without that name."""
        found = next((arm for arm in self.arms if arm.name == CURRENT), None)
        return found or max(self.arms, key=lambda arm: arm.share_percent)

    def arm(self, name: str) -> Arm:
        """The arm of a name; raises `Invalid`."""
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None:
            raise Invalid(
                f"endpoint {self.endpoint} has no arm {name[:64]!r}",
                hint=f"its arms are {', '.join(arm.name for arm in self.arms)}",
            )
        return found

    def numbered(self, number: int) -> Plan:
        """The same content under another number."""
        return replace(self, number=number)

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        for name in ("arms", "slower_than_s", "timed_parts"):
            content[name] = list(content[name])
        if self.shadow is not None and not self.shadow.embedding:
            del content["shadow"]["embedding"]  # unknown to earlier releases
        return {name: content[name] for name in content if name not in _SINCE or content[name]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The plan of its JSON form.

        Raises:
            Invalid: It has a newer schema, or a field is missing or wrong.
        """
        content = dict(value)
        _check_schema(content.pop("schema", None))
        unknown = set(content) - {one.name for one in fields(cls)}
        if unknown:
            raise Invalid(f"plan.{min(unknown)}: a plan has no such field", hint="remove it")
        try:
            content["arms"] = tuple(Arm(**arm) for arm in content["arms"])
            if content.get("shadow") is not None:
                content["shadow"] = Shadow(**content["shadow"])
            for name in ("slower_than_s", "timed_parts"):
                content[name] = tuple(content.get(name, ()))
            for name, kind in (("breaker", BreakerRule), ("limits", CallLimits)):
                if content.get(name) is not None:
                    content[name] = kind(**content[name])
            if content.get("context") is not None:
                content["context"] = msgspec.convert(content["context"], ContextPolicy)
            return cls(**content)
        except BasculeError:
            raise
        except (TypeError, KeyError, AttributeError, msgspec.ValidationError) as problem:
            raise Invalid(f"plan: {problem}", hint="see the reference of plans") from None


def own_part(plan: Plan, versions: Collection[str]) -> Plan | None:
    """What servers of these versions alone answer of a plan, behind a router that splits by shares.

    Arm names, thresholds and the number stay, so that a rollout counts by the same names.

    Returns:
        None: No arm has one of the versions.
    """
    arms = [arm for arm in plan.arms if arm.version in versions]
    if not arms:
        return None
    total = sum(arm.share_percent for arm in arms)
    shares = [100 * (arm.share_percent / total if total else 1 / len(arms)) for arm in arms]
    return replace(
        plan,
        arms=tuple(
            replace(arm, share_percent=share) for arm, share in zip(arms, shares, strict=True)
        ),
        shadow=None,
        context=plan.context if len(arms) == len(plan.arms) else None,
        fallback=plan.fallback if plan.fallback in versions else "",
    )


def choose(plan: Plan, key: str = "", *, draw: Callable[[], float] = random.random) -> Arm:
    """The arm of a request: the same for the same key, uniform by request without a key.

    Each arm but `current` takes its share of what the arms before it leave, by a hash of endpoint,
    arm and key. So a key keeps an arm whose share grows, whatever the shares of the others.
    """
    for arm, taken in splits(plan):
        if (unit(plan.endpoint, arm.name, key) if key else draw()) < taken:
            return arm
    return plan.current


def splits(plan: Plan) -> list[tuple[Arm, float]]:
    """The arms beside `current`, each with its share of what the arms before it leave, 0 to 1."""
    current, left = plan.current, 100.0
    made = []
    if held := plan.holdback_percent:
        made.append((Arm(HOLDBACK, current.version, held), held / 100))
    for arm in plan.arms:
        if arm is current or not arm.share_percent:
            continue
        made.append((arm, arm.share_percent / left if left > arm.share_percent else 1.0))
        left -= arm.share_percent
    return made


@lru_cache(4_096)
def unit(endpoint: str, arm: str, key: str) -> float:
    """A number in [0, 1) that looks random, and is the same in every process."""
    said = f"{endpoint}\0{arm}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest()) / 2**64


def _check_schema(schema: Any) -> None:
    if not _is_number(schema, whole=True) or schema < 1:
        raise Invalid("plan.schema: not a whole number >= 1", hint=f"write {SCHEMA}")
    if schema > SCHEMA:
        raise Invalid(
            f"plan.schema: {schema} is newer than {SCHEMA}, the newest that this release reads",
            hint=f"install a release of Bascule that reads plans of schema {schema}",
        )


def _check(plan: Plan) -> None:
    check_name(plan.endpoint, what="endpoint")
    if not _is_number(plan.number, whole=True) or plan.number < 1:
        raise Invalid(f"plan.number: {plan.number!r} is not a whole number >= 1")
    _check_arms(plan.arms)
    if plan.shadow is not None:
        _check_version("plan.shadow.version", plan.shadow.version)
        _check_within("plan.shadow.share_percent", plan.shadow.share_percent, 100.0)
        _check_within("plan.shadow.tolerance", plan.shadow.tolerance, float("inf"), zero=True)
        if plan.shadow.embedding:
            _check_version("plan.shadow.embedding", plan.shadow.embedding)
    if plan.fallback:
        _check_version("plan.fallback", plan.fallback)
    header = plan.sticky_header
    if header and not _is_header(header):
        raise Invalid(
            f"plan.sticky_header: {header!r} is not the name of a header in lower case",
            hint="write for example bascule-sticky",
        )
    if not isinstance(plan.sticky_field, str):
        raise Invalid("plan.sticky_field: not the name of an input")
    if len(plan.slower_than_s) > MAX_THRESHOLDS:
        raise Invalid(
            f"plan.slower_than_s: {len(plan.slower_than_s)} durations are more than "
            f"{MAX_THRESHOLDS}, the most of a plan"
        )
    names = [check_name(part, what="plan.timed_parts") for part in plan.timed_parts]
    if len(names) > MAX_TIMED_PARTS or any(len(name) > _MAX_PART_NAME for name in names):
        raise Invalid(
            f"plan.timed_parts: {len(names)} parts, or a name of over {_MAX_PART_NAME} characters",
            hint=f"name {MAX_TIMED_PARTS} parts at most",
        )
    _check_within("plan.holdback_percent", plan.holdback_percent, _MAX_HOLDBACK_PERCENT, zero=True)
    if plan.holdback_percent and any(arm.name == HOLDBACK for arm in plan.arms):
        raise Invalid(
            f"plan.arms: the name {HOLDBACK!r} is that of held-back requests",
            hint="give the arm another name",
        )
    _check_resilience(plan)
    if plan.context is not None and {arm.name for arm in plan.arms} != {CURRENT, CANDIDATE}:
        raise Invalid(
            "plan.context: only arms named current and candidate are steered",
            hint="leave plan.context out",
        )
    for index, threshold in enumerate(plan.slower_than_s):
        _check_within(f"plan.slower_than_s[{index}]", threshold, MAX_SLOWER_S)


def _check_resilience(plan: Plan) -> None:
    breaker, limits = plan.breaker, plan.limits
    if breaker is not None:
        if not _is_number(breaker.failures, whole=True):
            raise Invalid(f"plan.breaker.failures: {breaker.failures!r} is not a whole number")
        _check_within("plan.breaker.failures", breaker.failures, MAX_FAILURES, zero=True)
        _check_within("plan.breaker.open_s", breaker.open_s, MAX_SLOWER_S)
    if limits is not None:
        _check_within("plan.limits.timeout_s", limits.timeout_s, MAX_SLOWER_S, zero=True)
        _check_within("plan.limits.retry_percent", limits.retry_percent, 100.0, zero=True)


def _check_arms(arms: tuple[Arm, ...]) -> None:
    if not 1 <= len(arms) <= MAX_ARMS:
        raise Invalid(f"plan.arms: {len(arms)} arms; a plan has 1 to {MAX_ARMS}")
    for index, arm in enumerate(arms):
        check_name(arm.name, what=f"plan.arms[{index}].name")
        _check_version(f"plan.arms[{index}].version", arm.version)
        _check_within(f"plan.arms[{index}].share_percent", arm.share_percent, 100.0, zero=True)
    for what in ("name", "version"):
        values = [getattr(arm, what) for arm in arms]
        twice = next((one for one in values if values.count(one) > 1), None)
        if twice is not None:
            raise Invalid(f"plan.arms: the {what} {twice!r} is there twice")
    total = sum(arm.share_percent for arm in arms)
    if abs(total - 100.0) > _SHARES_TOLERANCE:
        raise Invalid(
            f"plan.arms: the shares add up to {total:g} %",
            hint="give the arms shares of 100 % together",
        )


def _check_version(place: str, version: object) -> None:
    try:
        known = Reference.parse(str(version)).number is not None
    except Invalid:
        known = False
    if not known:
        raise Invalid(f"{place}: {version!r} is not a version", hint="write MODEL/NUMBER: late/4")


def _check_within(place: str, value: Any, most: float, *, zero: bool = False) -> None:
    if not _is_number(value) or not (value >= 0.0 if zero else value > 0.0) or not value <= most:
        raise Invalid(f"{place}: {value!r} is not {'>= 0' if zero else '> 0'} and <= {most:g}")


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _is_header(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.isascii()
        and name == name.lower()
        and len(name) <= _MAX_HEADER
        and name.replace("-", "").replace("_", "").isalnum()
    )
