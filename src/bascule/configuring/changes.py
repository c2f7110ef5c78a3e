"""What must change so that a catalogue is as a document says: one function a section.

Each looks at what is recorded and gives changes, none where nothing differs, so a second run
changes nothing. Everything that can be refused is refused here, before the first change is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bascule.configuring.document import (
    DeploySpec,
    EndpointSpec,
    KeySpec,
    PlanSpec,
    ScheduleSpec,
    SilenceSpec,
)
from bascule.core import Conflict, Invalid, NotFound, Reference
from bascule.security import ANY, Action, Permission, check_projects

if TYPE_CHECKING:
    from bascule.batch import Places
    from bascule.endpoints import Plan, StoredEndpoint
    from bascule.jobs import Schedules
    from bascule.monitoring.alerts import AlertStore
    from bascule.registry import CatalogueKeys
    from bascule.release.rollouts import Rollouts, StoredRollout

Needs = tuple[tuple[Action, str], ...]
"""Rights: actions, each with the model or the endpoint that it is done to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change, which is one transaction or two.

    Attributes:
        place: Of the document: the section, a point, and the name of the entry.
        sentence: What is done, in the imperative.
        act: Makes it; returns the tokens of new keys by their names.
    """

    place: str
    sentence: str
    act: Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Books:
    """What a document is compared with and written to.

    Attributes:
        rollouts: The rollouts, and with them the endpoints.
        resolve: The version, `MODEL/NUMBER`, that a reference means; raises `NotFound`.
        schedules: The schedules of batch jobs.
        keys: The keys of callers.
        alerts: The silences.
        now: The time.
        places: Where jobs of schedules may read and write; anywhere if None.
    """

    rollouts: Rollouts
    resolve: Callable[[str], str]
    schedules: Schedules
    keys: CatalogueKeys
    alerts: AlertStore
    now: datetime
    places: Places | None = None


@dataclass(frozen=True, slots=True)
class By:
    """The user, and why."""

    user: str
    reason: str


class Section(Protocol):
    """Gives the changes of one entry of a section."""

    def __call__(self, name: str, spec: Any, books: Books, by: By) -> Iterator[Change]: ...


def endpoint_changes(name: str, spec: EndpointSpec, books: Books, by: By) -> Iterator[Change]:
    """The deployment, the plan or the deletion that an endpoint takes."""
    book, place = books.rollouts, f"endpoints.{name}"
    found = next((one for one in book.endpoints.endpoints() if one.name == name), None)
    if spec.absent:
        if found is not None:
            book.endpoints.check_approved(found.current.plan, None, name)
            reason = by.reason or "not in the configuration any more"
            act = partial(book.delete_endpoint, name, by=by.user, reason=reason)
            yield Change(place, f"delete endpoint {name}", _quiet(act))
        return
    active = [one for one in book.rollouts(name) if one.ended_at is None]
    if spec.plan is not None:
        yield from _plan_changes(place, spec.plan, found, name, active, books, by)
    else:
        yield from _deployment(place, spec, found, name, active, books, by)


def _deployment(
    place: str, spec: EndpointSpec, found: StoredEndpoint | None, name: str,
    active: Sequence[StoredRollout], books: Books, by: By,
) -> Iterator[Change]:  # fmt: skip
    from bascule.endpoints import DeployRequest
    from bascule.release.rollouts import RolloutRequest

    reference = spec.version or spec.follow
    version = books.resolve(reference)
    asked = RolloutRequest(
        version=version, endpoint=name, follow=spec.follow, reason=by.reason, **_said(spec.deploy)
    )
    follows = _follows(spec, found, asked.deploys_with)
    answers = found is not None and found.current.plan.current.version == version
    is_under_way = any(one.rollout.candidate == version for one in active)
    moves_by_itself = found is not None and found.follows == reference
    if follows and (answers or is_under_way or moves_by_itself):
        return
    _check_idle(active)
    plain = DeployRequest(
        version=version, endpoint=name, follow=spec.follow, reason=by.reason, strategy="all"
    )
    book = books.rollouts.endpoints
    make: Any = partial(book.deploy, plain, by=by.user, deploys_with=asked.deploys_with)
    made: Any = make(dry_run=True)
    if answers:  # the source alone changes: nothing is compared
        said = f"let endpoint {name} follow {spec.follow}"
    else:
        if made.before is not None:  # a first version has nothing to be compared with
            make = partial(books.rollouts.deploy, asked, by=by.user)
            made = make(dry_run=True)
        said = made.sentence.replace("deployed", "deploy", 1)
    yield Change(place, said, _quiet(make))


def _follows(
    spec: EndpointSpec, found: StoredEndpoint | None, deploys_with: Mapping[str, Any]
) -> bool:
    """Whether the source of an endpoint is what the document says, or it says nothing of it."""
    if not spec.follow:
        return True
    if found is None:
        return False
    if spec.follow == "none":
        return not found.follows
    return found.follows == spec.follow and dict(found.following) == dict(deploys_with)


def _plan_changes(
    place: str, spec: PlanSpec, found: StoredEndpoint | None, name: str,
    active: Sequence[StoredRollout], books: Books, by: By,
) -> Iterator[Change]:  # fmt: skip
    from bascule.endpoints import DeployRequest, PlanEvent

    before = None if found is None else found.current.plan
    wanted = _plan_of(spec, name, 1 if before is None else before.number + 1, books)
    if before is not None and wanted == replace(
        before, rollout="", timed_parts=(), number=wanted.number
    ):
        return
    _check_idle(active)
    shares = ", ".join(f"{arm.version} {arm.share_percent:g} %" for arm in wanted.arms)
    said = f"give endpoint {name} the plan {shares}"
    if wanted.shadow is not None:
        said += f", with {wanted.shadow.version} as shadow"
    book = books.rollouts.endpoints
    book.check_approved(before, wanted, name)
    first = DeployRequest(
        version=wanted.current.version, endpoint=name, strategy="all", reason=by.reason
    )
    if before is None:
        book.deploy(first, by=by.user, dry_run=True)

    def act() -> None:
        plan = before
        if plan is None:
            plan = book.deploy(first, by=by.user).plan
        made = wanted.numbered(plan.number + 1)
        if replace(plan, number=made.number) == made:
            return
        body = {"number": made.number}
        event = PlanEvent("plan_applied", datetime.now(UTC), by.user, by.reason, said, body)
        book.apply(made, event)

    yield Change(place, said, _quiet(act))


def _plan_of(spec: PlanSpec, name: str, number: int, books: Books) -> Plan:
    from bascule.endpoints import Arm, BreakerRule, CallLimits, Plan, Shadow

    def fields(part: Any) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(part)
        if "version" in made:
            made["version"] = books.resolve(made["version"])
        return made

    return Plan(
        name, number, tuple(Arm(**fields(arm)) for arm in spec.arms),
        shadow=None if spec.shadow is None else Shadow(**fields(spec.shadow)),
        sticky_header=spec.sticky_header, sticky_field=spec.sticky_field,
        fallback=books.resolve(spec.fallback) if spec.fallback else "",
        slower_than_s=spec.slower_than_s,
        breaker=None if spec.breaker is None else BreakerRule(**fields(spec.breaker)),
        limits=None if spec.limits is None else CallLimits(**fields(spec.limits)),
        holdback_percent=spec.holdback_percent,
    )  # fmt: skip


def _check_idle(active: Sequence[StoredRollout]) -> None:
    if active:
        rollout = active[0].rollout
        raise Conflict(
            f"rollout {rollout.id} of {rollout.candidate} is under way",
            hint=f"wait for its end, or bascule rollout abort {rollout.id}",
        )


def _said(spec: DeploySpec) -> dict[str, Any]:
    plain = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return {name: value for name, value in plain.items() if value not in ("", (), None)}


def schedule_changes(name: str, spec: ScheduleSpec, books: Books, by: By) -> Iterator[Change]:
    """The schedule that is added, replaced, paused, resumed or removed."""
    from bascule.batch import job_of
    from bascule.jobs import Schedule

    place, book = f"schedules.{name}", books.schedules
    try:
        found = book.get(name).schedule
    except NotFound:
        found = None
    how: dict[str, Any] = {"by": by.user, "reason": by.reason}
    if spec.absent:
        if found is not None:
            yield Change(
                place, f"remove schedule {name}", _quiet(partial(book.remove, name, **how))
            )
        return
    if not spec.folder:
        raise Invalid("folder: required where the server is elsewhere", hint="folder: /srv/jobs")
    job = job_of(spec.job)
    if books.places is not None:
        books.places.check(job, spec.folder)
    wanted = Schedule(
        name=name, cron=spec.cron, timezone=spec.timezone,
        catch_up=spec.catch_up,  # type: ignore[arg-type]  # the schedule says what is wrong
        job=msgspec.json.decode(msgspec.json.encode(job)),
        retries=spec.retries, retry_after_min=spec.retry_after_min,
        folder=spec.folder, is_paused=spec.paused, is_confined=books.places is not None,
        created_at=books.now if found is None else found.created_at,
    )  # fmt: skip
    if found == wanted:
        return
    at = f"{wanted.cron} {wanted.timezone}"
    said = f"run {wanted.job['model']} at {at} as schedule {name}"
    make = partial(book.put, msgspec.structs.replace(wanted, created_at=books.now), **how)
    if found is not None and msgspec.structs.replace(found, is_paused=spec.paused) == wanted:
        said = f"{'pause' if spec.paused else 'resume'} schedule {name}"
        make = partial(book.pause if spec.paused else book.resume, name, **how)
    elif found is not None:
        said = f"change schedule {name}: {_differences(found, wanted)}"
    yield Change(place, said, _quiet(make))


def _differences(before: Any, after: Any) -> str:
    names = [
        name for name in after.__struct_fields__ if getattr(before, name) != getattr(after, name)
    ]
    return ", ".join(
        "its job" if name == "job" else f"{name} {getattr(before, name)} -> {getattr(after, name)}"
        for name in names
    )


def key_changes(name: str, spec: KeySpec, books: Books, by: By) -> Iterator[Change]:
    """The key that is made, gets other rights, or is revoked."""
    place, book = f"keys.{name}", books.keys
    live = [one for one in book.stored() if one.name == name and one.state(books.now) == "live"]
    if spec.absent:
        if live:
            yield Change(place, f"revoke key {name}", _quiet(partial(book.end, name, by=by.user)))
        return
    permissions = tuple(dict.fromkeys(map(Permission.parse, spec.allow)))
    check_projects(permissions, book.projects)
    said = ", ".join(map(str, permissions))
    until = f" until {spec.expires_at.isoformat()}" if spec.expires_at else ""
    if spec.expires_at is not None and spec.expires_at <= books.now:
        raise Invalid(f"expires_at: {spec.expires_at.isoformat()} is in the past")
    if not live:

        def create() -> Mapping[str, str]:
            _, token = book.create(name, permissions, by=by.user, expires_at=spec.expires_at)
            return {name: token}

        yield Change(place, f"make key {name}, which allows {said}{until}", create)
        return
    key = live[-1]
    if set(key.permissions) == set(permissions) and key.expires_at == spec.expires_at:
        return
    before = ", ".join(map(str, key.permissions))
    change = partial(
        book.change, key.id, permissions, expires_at=spec.expires_at, by=by.user, reason=by.reason
    )
    yield Change(place, f"let key {name} allow {said}{until}, instead of {before}", _quiet(change))


def silence_changes(name: str, spec: SilenceSpec, books: Books, by: By) -> Iterator[Change]:
    """The silence that is begun; one that is over is not begun again."""
    if spec.until <= books.now:
        return
    why = f"{name}: {spec.why}"
    same = [one for one in books.alerts.silences(books.now) if one.why == why]
    if any((one.model, one.source, one.until) == (spec.model, spec.source, spec.until)
           for one in same):  # fmt: skip
        return

    def act() -> None:
        for one in same:
            books.alerts.end_silence(one.id, by=by.user, now=books.now)
        books.alerts.silence(
            model=spec.model, source=spec.source, until=spec.until, why=why, by=by.user,
            now=books.now,
        )  # fmt: skip

    said = f"silence {spec.source or 'alerts'} of {spec.model} until {spec.until.isoformat()}"
    yield Change(f"silences.{name}", said, _quiet(act))


def _quiet(act: Callable[[], object]) -> Callable[[], Mapping[str, str]]:
    """An act that makes no key."""

    def acted() -> Mapping[str, str]:
        act()
        return {}

    return acted


SECTIONS: Mapping[str, Section] = {
    "keys": key_changes,
    "endpoints": endpoint_changes,
    "schedules": schedule_changes,
    "silences": silence_changes,
}
"""In the order in which changes are made."""


def rights_of(name: str, spec: object) -> Needs:
    """The rights that an entry takes, whether or not it changes anything. Looks nothing up."""
    if isinstance(spec, KeySpec):
        return (("keys", ""),)
    if isinstance(spec, ScheduleSpec):
        return (("manage", ANY),)  # a job reads and writes as the server does
    if isinstance(spec, SilenceSpec):
        return (("write", ANY if any(sign in spec.model for sign in "*?[") else spec.model),)
    assert isinstance(spec, EndpointSpec)
    named = [spec.version, "" if spec.follow == "none" else spec.follow]
    if spec.plan is not None:
        named += [arm.version for arm in spec.plan.arms] + [spec.plan.fallback]
        named += [spec.plan.shadow.version] if spec.plan.shadow is not None else []
    models = dict.fromkeys(Reference.parse(one).model for one in named if one)
    return (("deploy", name), *(("deploy", one) for one in models))
