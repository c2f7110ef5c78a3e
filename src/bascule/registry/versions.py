"""What the registry keeps, as values, and the rules that it decides by. Nothing here does I/O."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from bascule.bundle.disk import Statement, check_body
from bascule.core import (
    Conflict,
    Invalid,
    NotFound,
    Reference,
    Refused,
    Untrusted,
    canonical_json,
)

if TYPE_CHECKING:
    from bascule.documents import Table

Gates = Literal["passed", "failed", "unchecked"]
"""The verdict of the latest check of a version that counts; unchecked when there is none."""

MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)
"""How far the clock of the checking machine may be ahead of the registry's."""

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Expectation(Enum):
    """What a caller may expect of an alias beside a number, or nothing (None)."""

    ANYTHING = "anything"


ANYTHING = Expectation.ANYTHING
"""Wherever it points: the move is not conditional."""

_TAG_KEY = re.compile(r"[A-Za-z0-9](?:[\w.:/-]{0,126}\w)?", re.ASCII)
_NAMED = 2
_MAX_TAG_VALUE = 256


@dataclass(frozen=True, slots=True)
class Retirement:
    """A tombstone: when, by whom and why a version was taken out of use."""

    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Deprecation:
    """The announcement that a version will go away.

    Attributes:
        at: When it was announced.
        by: The user.
        reason: Why; may be empty.
        sunset: From then on servers answer 410 for the version; None for no date.
        successor: The version to use instead, `MODEL/NUMBER`; empty for none.
    """

    at: datetime
    by: str
    reason: str = ""
    sunset: datetime | None = None
    successor: str = ""

    def has_ended(self, now: datetime) -> bool:
        """Whether the sunset has passed."""
        return self.sunset is not None and now >= self.sunset

    @property
    def terms(self) -> str:
        """Sunset and successor, in words."""
        ends = f"ends {self.sunset:%Y-%m-%d}" if self.sunset else "no sunset yet"
        return f"{ends}, then {self.successor}" if self.successor else ends


@dataclass(frozen=True, slots=True)
class Version:
    """One bundle under one name; `number` counts 1, 2, 3 for each model without gaps."""

    model: str
    number: int
    digest: str
    pushed_at: datetime
    pushed_by: str
    gates: Gates
    retired: Retirement | None = None
    deprecated: Deprecation | None = None

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"

    def __repr__(self) -> str:
        state = "retired" if self.retired else f"gates {self.gates}"
        state += ", deprecated" if self.deprecated else ""
        return f"Version({self}, {state}, {self.digest[:19]})"

    def _repr_html_(self) -> str:
        from bascule.documents import Table, notebook

        rows = [
            ("version", str(self)),
            ("gates", self.gates),
            ("pushed", f"{_local(self.pushed_at)} by {self.pushed_by}"),
            ("digest", self.digest[:19]),
        ]
        if self.deprecated is not None:
            rows.append(("deprecated", self.deprecated.terms))
        if self.retired is not None:
            rows.append(("retired", self.retired.reason))
        return notebook(Table(("", ""), tuple(rows)))


Named = Version | Reference | str
"""What callers may name a version by."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points to one version of a model, until it is moved."""

    model: str
    name: str
    number: int
    moved_at: datetime

    def __str__(self) -> str:
        return f"{self.model}@{self.name}"


@dataclass(frozen=True, slots=True)
class Model:
    """A name in the registry: how many versions it has, the newest one, and its aliases."""

    name: str
    versions: int
    newest: Version
    aliases: Mapping[str, Alias]


def models_table(models: Iterable[Model]) -> Table:
    """A row a model, for people: its newest version, and what its aliases point to."""
    from bascule.documents import Table

    return Table(
        ("model", "newest", "gates", "aliases", "pushed"),
        tuple(
            (
                model.name,
                str(model.newest.number),
                model.newest.gates,
                ", ".join(f"{name} -> {one.number}" for name, one in model.aliases.items()) or "-",
                _local(model.newest.pushed_at),
            )
            for model in models
        ),
        ("newest",),
        "no models yet; bascule push BUNDLE adds one",
    )


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a model's history, which is only ever added to.

    Attributes:
        kind: What happened.
        number: The version that it happened to. Of `alias_moved`: the one moved to.
        alias: The alias, of the two kinds that concern one.
        from_number: Where the alias pointed before; None where it was new.
        to_number: Where it points now; None where it was dropped.
        at: When the registry wrote it down.
        by: Who asked for it.
        reason: Why, in a sentence; may be empty.
        key: The tag, of the two kinds that concern one.
        from_value: What the tag said before; None where it was new.
        to_value: What it says now; None where it was unset. Of `deprecated`: its terms.
    """

    kind: str
    model: str
    at: datetime
    by: str
    number: int | None = None
    alias: str | None = None
    from_number: int | None = None
    to_number: int | None = None
    reason: str = ""
    key: str | None = None
    from_value: str | None = None
    to_value: str | None = None

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        version = f"{self.model}/{self.number}"
        moved = f"{self.model}@{self.alias}"
        return {
            "pushed": f"{version} pushed",
            "alias_moved": f"{moved}: {self.from_number or 'new'} -> {self.to_number}",
            "alias_dropped": f"{moved} dropped (was {self.from_number})",
            "gates_recorded": f"{version} checked",
            "tag_set": f"{version} {self.key}: {self.from_value or 'new'} -> {self.to_value}",
            "tag_unset": f"{version} {self.key} unset (was {self.from_value})",
            "retired": f"{version} retired",
            "restored": f"{version} restored",
            "deprecated": f"{version} deprecated: {self.to_value}",
            "undeprecated": f"{version} is deprecated no more",
            "collected": f"{version} files removed",
        }.get(self.kind, f"{self.model} {self.kind}")  # the kinds of other rooms

    def __repr__(self) -> str:
        where = f"{self.model}@{self.alias}" if self.alias else f"{self.model}/{self.number}"
        moved = f" from {self.from_number} to {self.to_number}" if self.alias else ""
        return f"Event({self.kind} {where}{moved} by {self.by})"


@dataclass(frozen=True, slots=True)
class Found:
    """A version that a search found, with what can be searched by."""

    version: Version
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Check:
    """A verdict that counts, and how the registry came by it.

    Attributes:
        statement: The `gates` statement.
        brought_by: The user that pushed the bundle with it, which is an unverified claim; None if
            the check was recorded here.
    """

    statement: Statement
    brought_by: str | None = None

    @property
    def passed(self) -> bool:
        return verdict(self.statement.body)

    @property
    def met(self) -> frozenset[str]:
        """The criteria that it judged and found met."""
        results = self.statement.body.get("results", ())
        return frozenset(one["criterion"] for one in results if one["passed"] is True)

    @property
    def judged(self) -> Mapping[str, bool]:
        """Whether each criterion that it judged was met."""
        results = self.statement.body.get("results", ())
        return {one["criterion"]: one["passed"] is True for one in results}


def check_tag(key: str, value: str | None) -> None:
    """Raise `Invalid` unless a version may carry this tag; `value` is None where it is unset."""
    if not _TAG_KEY.fullmatch(key):
        raise Invalid(
            f"tag {key!r} is not allowed",
            hint="use 1 to 128 letters, digits, '_', '.', ':', '/' or '-', starting and ending "
            "with a letter or digit",
        )
    if value is not None and not (0 < len(value) <= _MAX_TAG_VALUE and value.isprintable()):
        raise Invalid(
            f"the value of tag {key!r} is not allowed",
            hint=f"use 1 to {_MAX_TAG_VALUE} printable characters",
        )


def check_is_in_use(version: Version) -> Version:
    """The version, unless it was retired; then raise `Refused`, which says why."""
    if version.retired is None:
        return version
    day = version.retired.at.date().isoformat()
    raise Refused(
        f"{version} was retired on {day} by {version.retired.by}: {version.retired.reason}",
        hint=f"use another version (bascule show {version.model}), or bascule retire {version} "
        "--undo",
        model=version.model,
        number=version.number,
    )


def check_sunset(version: Version, sunset: datetime | None, *, now: datetime) -> None:
    """Raise `Invalid` unless a version may end then: with a time zone, in the future."""
    if sunset is None:
        return
    if sunset.tzinfo is None:
        raise Invalid(f"sunset {sunset.isoformat()} has no time zone", hint="2027-03-01T00:00Z")
    if sunset <= now:
        raise Invalid(
            f"the sunset of {version}, {sunset.isoformat()}, is in the past",
            hint=f"give a later date, or bascule retire {version}",
        )


def check_may_be_retired(
    version: Version, reason: str, aliases: Iterable[Alias], needed_by: Sequence[str]
) -> None:
    """Raise unless `version` may be taken out of use.

    Args:
        version: The version.
        reason: Why.
        aliases: Those of its model.
        needed_by: What needs it beside aliases, in words: plans, rollouts.

    Raises:
        Invalid: There is no reason.
        Refused: An alias points to it, or something else needs it.
    """
    if not reason.strip():
        raise Invalid("a version is retired for a reason", hint="--reason 'leaks the target'")
    pointing = sorted(alias.name for alias in aliases if alias.number == version.number)
    if pointing:
        raise Refused(
            f"{version} cannot be retired: {', '.join(map(repr, pointing))} points to it",
            hint=f"bascule alias {version.model}/NUMBER {pointing[0]} first",
            model=version.model,
            number=version.number,
        )
    if needed_by:
        raise Refused(
            f"{version} cannot be retired: {'; '.join(needed_by)}",
            hint="deploy another version there, end the rollout or remove the schedule, first",
            model=version.model,
            number=version.number,
        )


def check_statement(statement: Statement, *, now: datetime, file: str = "") -> Statement:
    """The statement with its time in UTC, if its kind can stand in a file name.

    Args:
        statement: The claim.
        now: The registry's time, which no verdict may be ahead of.
        file: Where it was read from, for the message.

    Raises:
        Untrusted: It can not, or the time is none, or the body is not JSON, or not what statements
            of its kind say, or it is a verdict from the future.
    """
    if not _KIND.fullmatch(statement.kind):
        raise Untrusted(f"statement kind {statement.kind!r} is not a word of small letters")
    try:
        moment = datetime.fromisoformat(statement.at)
        if moment.tzinfo is None:
            raise ValueError("it has no time zone")
        checked = replace(statement, at=moment.astimezone(UTC).isoformat())
        canonical_json(checked.to_json())
        check_body(checked.kind, checked.body, f"the {checked.kind} statement")
    except (TypeError, ValueError, OverflowError) as problem:
        raise Untrusted(f"a {statement.kind} statement cannot be kept: {problem}") from None
    if checked.kind == "gates" and moment - now > MAX_CLOCK_DIFFERENCE:
        raise Untrusted(
            f"{file or 'the gates statement'} by {statement.by} is dated {checked.at}, and it is "
            f"{now.astimezone(UTC).isoformat(timespec='seconds')} here: a check cannot lie in the "
            "future",
            hint=("remove that file from the statements of the bundle, " if file else "")
            + "set the clock of the machine that checked, and run bascule check again",
            file=file,
            at=checked.at,
        )
    return checked


def verdict(body: Mapping[str, Any]) -> bool:
    """Whether a gates statement says that its version passed; anything but a clear yes is no."""
    return body.get("passed") is True


def summary_of_gates(body: Mapping[str, Any]) -> str:
    """`passed 5 of 5` with the first criteria, or the reasons of what failed, for the history."""
    results = [result for result in body.get("results", ()) if isinstance(result, Mapping)]
    failed = [result for result in results if result.get("passed") is not True]
    if not failed:
        verdict_word = "passed" if verdict(body) else "failed"
        named = ", ".join(str(result.get("criterion")) for result in results[:_NAMED])
        more = f" and {len(results) - _NAMED} more" if len(results) > _NAMED else ""
        count = f"{verdict_word} {len(results)} of {len(results)}"
        return f"{count}: {named}{more}" if results else verdict_word
    return "failed " + "; ".join(
        f"{result.get('criterion')}: {result.get('reason')}" for result in failed
    )


def choose_newest(model: str, versions: Sequence[Version]) -> Version:
    """The newest version that is in use and whose gates have not failed.

    Raises:
        NotFound: There are no versions.
        Refused: There are, and every one of them has failed or was retired.
    """
    if not versions:
        raise NotFound(f"model {model!r} has no versions", hint="bascule push PATH", model=model)
    in_use = [version for version in versions if version.retired is None]
    if not in_use:
        raise Refused(
            f"every version of {model!r} was retired",
            hint=f"bascule history {model} says why; push another",
            model=model,
        )
    for version in sorted(in_use, key=lambda version: version.number, reverse=True):
        if version.gates != "failed":
            return version
    newest = max(in_use, key=lambda version: version.number)
    raise Refused(
        f"every version of {model!r} has failed its gates",
        hint=f"name one to use it all the same: {newest}",
        model=model,
    )


def check_may_be_aliased(
    version: Version,
    alias: str,
    *,
    checks: Sequence[Check],
    require_gates: bool,
    criteria: Sequence[str] = (),
    is_vouched_for: Callable[[Statement], bool] | None = None,
    about: str = "",
) -> None:
    """Raise `Refused` unless `alias` may point to `version`.

    The criteria decide, each by the last check that judged it: a pass of other criteria does not
    make up for a failure. Where some were never judged, the last check decides.

    Where gates are required, a pass only counts that judged all the criteria, and that was
    recorded here or is signed: any other pass neither lets a version pass nor makes up for a failed
    check.

    Args:
        version: The version that the alias would point to.
        alias: The alias.
        checks: Its checks that count, in the order in which the registry learnt of them.
        require_gates: Whether an unchecked version is refused too.
        criteria: Those of the settings, as criteria print themselves.
        is_vouched_for: Whether a statement that came with a push is trusted; None if every user
            that may push is trusted.
        about: The beginning of the message, if it is no alias that would be refused.
    """
    about = about or f"alias {alias!r} may not point to {version}"
    facts = {"model": version.model, "number": version.number, "alias": alias}
    again = f"bascule check {version}, or switch registry.require_gates off"
    if not require_gates:
        last = {one: check for check in checks for one in check.judged}
        unmet = [last[one] for one in criteria if one in last and not last[one].judged[one]]
        if unmet:
            raise _failed(about, version, unmet[-1], facts)
        if checks and not checks[-1].passed and not (criteria and last.keys() >= set(criteria)):
            raise _failed(about, version, checks[-1], facts)
        return
    sound = [
        one
        for one in checks
        if not one.passed
        or one.brought_by is None
        or is_vouched_for is None
        or is_vouched_for(one.statement)
    ]
    deciding = [one for one in sound if not one.passed or one.met.issuperset(criteria)]
    if deciding and deciding[-1].passed:
        return
    if sound and sound[-1].passed:
        unjudged = ", ".join(repr(one) for one in criteria if one not in sound[-1].met)
        failed = ", and it failed before" if deciding else ""
        raise Refused(
            f"{about}, whose latest check did not judge {unjudged}{failed}",
            hint=f"judge all of gates.criteria: {again}",
            **facts,
        )
    if deciding:
        raise _failed(about, version, deciding[-1], facts)
    if checks:
        said = checks[-1]
        raise Refused(
            f"{about}: its gates statement by {said.statement.by} came with the push by "
            f"{said.brought_by}, and none of security.required_keys signed it",
            hint=f"check it again here: {again}",
            **facts,
        )
    raise Refused(f"{about}, which has not been checked", hint=again, **facts)


def _failed(about: str, version: Version, check: Check, facts: Mapping[str, object]) -> Refused:
    failures = summary_of_gates(check.statement.body).removeprefix("failed").strip()
    return Refused(
        f"{about}, which failed its gates{': ' if failures else ''}{failures}",
        hint=f"bascule show {version} tells more; push a version that passes",
        **facts,
    )


def check_expected(
    model: str, alias: str, before: Alias | None, expected: int | Expectation | None
) -> None:
    """Raise `Conflict` unless an alias is where the caller last saw it."""
    number = None if before is None else before.number
    if expected is ANYTHING or number == expected:
        return
    seen = "new" if expected is None else f"at {model}/{expected}"
    found = "does not exist" if number is None else f"points to {model}/{number}"
    raise Conflict(
        f"{model}@{alias} {found}; it was expected to be {seen}",
        hint=f"it was moved in the meantime: see bascule history {model}, then decide again",
        model=model,
        alias=alias,
        found=number,
    )


def no_model(name: str, known: Iterable[str]) -> NotFound:
    return _unknown(f"no model {name!r}", name, known, hint="bascule models", model=name)


def no_alias(model: str, alias: str, known: Iterable[str]) -> NotFound:
    return _unknown(
        f"no alias {alias!r} of model {model!r}",
        alias,
        known,
        hint=f"bascule alias {model}/NUMBER {alias} makes it",
        model=model,
        alias=alias,
    )


def no_version(model: str, number: int, known: Iterable[int]) -> NotFound:
    newest = max(known, default=0)
    return NotFound(
        f"no version {number} of model {model!r}; its newest is {newest}",
        hint=f"bascule show {model}",
        model=model,
        number=number,
    )


def _unknown(
    message: str, name: str, known: Iterable[str], *, hint: str, **facts: object
) -> NotFound:
    names = sorted(known)
    by_folded = {candidate.casefold(): candidate for candidate in names}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    if near:
        message += f"; did you mean {by_folded[near[0]]!r}?"
    elif names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        message += f"; there is {shown}"
    return NotFound(message, hint=hint, **facts)
