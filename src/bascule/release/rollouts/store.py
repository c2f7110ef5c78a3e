"""Rollouts in the catalogue: a decision and its plan are one transaction; a count is used once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from bascule.catalogue import Catalogue, Lease, check_held, database_now, events, put, put_new
from bascule.core import Conflict, NotFound
from bascule.endpoints import (
    CANDIDATE,
    CURRENT,
    PREVIOUS,
    Arm,
    EndpointStore,
    Follows,
    Move,
    Plan,
    PlanEvent,
    Shadow,
    StoredPlan,
)
from bascule.release.rollouts import schema
from bascule.release.rollouts.evidence import (
    Cohort,
    Cohorts,
    Interval,
    less,
    summed,
    with_limits,
)
from bascule.release.rollouts.guards import Alike, limits_of, parts_of
from bascule.release.rollouts.keys import Told, add_keys
from bascule.release.rollouts.plan import (
    Decision,
    LoadFailure,
    Rollout,
    StoredDecision,
    StoredRollout,
)
from bascule.release.rollouts.states import FINAL, Promoted

_NEWEST = 2**31 - 1
_EVENTS = "answers"
"""The source under which the events are kept by which answers are compared; it counts nothing."""
_NOTHING = {"number": 0, "stage": 0}
SUBJECT = "endpoint"
"""The history of a rollout is that of its endpoint."""


_LOADING = "load failure of "
"""Begins the source of a row of counts that counts nothing: a host that cannot load a version."""


class Superseded(Conflict):
    """Another decision about the rollout was stored meanwhile."""


class RolloutStore:
    """See the module. A catalogue that is not there yet has no rollouts."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._endpoints = EndpointStore(catalogue)

    def add(
        self, rollout: Rollout, *, by: str, reason: str, first: StoredPlan | None,
        follows: Follows | None = None, move: Move | None = None,
        from_settings: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Add a rollout, which the controller begins.

        Args:
            rollout: What is asked for.
            by: The user.
            reason: Why.
            first: The plan of an endpoint that has none: what is served now.
            follows: The endpoint's source from now on; None for that of now.
            move: The move of an alias that is the cause; None for another cause.
            from_settings: The fields that the settings chose, for the history.

        Raises:
            Conflict: The endpoint has a rollout that has not ended.
        """
        self.catalogue.create()
        if first is not None:
            self._endpoints.add([first], [])
        with self.catalogue.write() as connection:
            self._endpoints.lock(connection, rollout.endpoint, rollout.started_at)
            _refuse_running(connection, rollout.endpoint)
            if follows is not None:
                self._endpoints.follow(connection, rollout.endpoint, follows)
            if move is not None:
                self._endpoints.note_move(connection, rollout.endpoint, move)
            connection.execute(
                sa.insert(schema.rollouts).values(
                    id=rollout.id,
                    endpoint=rollout.endpoint,
                    content=msgspec.to_builtins(rollout),
                    decisions=0,
                    latest={},
                    sealed={},
                    intervals=0,
                    created_at=rollout.started_at,
                    created_by=by,
                    reason=reason,
                )
            )
            said = f"rollout of {rollout.candidate} ({rollout.strategy}) was asked for"
            if from_settings:
                said += f"; from the settings: {', '.join(from_settings)}"
            body = {"sentence": said, "rollout": rollout.id}
            events.append(
                connection, _event(rollout, "rollout_asked", rollout.started_at, by, reason, body)
            )

    def delete_endpoint(self, name: str, event: PlanEvent) -> None:
        """Delete an endpoint; raises `Conflict` where it has a rollout that has not ended."""
        with self.catalogue.write() as connection:
            self._endpoints.lock(connection, name, event.at)
            _refuse_running(connection, name)
            self._endpoints.delete(connection, name, event)

    def refuse_move(self, endpoint: str, move: Move, event: PlanEvent) -> None:
        """Record that a move of an alias was acted on without a deployment, and why."""
        with self.catalogue.write() as connection:
            self._endpoints.note_move(connection, endpoint, move)
            if event.sentence:
                self._endpoints.note(connection, endpoint, event)

    def active(self) -> list[StoredRollout]:
        """Those that have not ended, in the order of their start."""
        return self._select(schema.rollouts.c.ended_at.is_(None))

    def rollouts(
        self, endpoint: str | None = None, *, latest: int | None = None
    ) -> list[StoredRollout]:
        """All, or those of an endpoint; the oldest first. `latest`: so many of the newest alone."""
        condition = sa.true() if endpoint is None else schema.rollouts.c.endpoint == endpoint
        return self._select(condition, latest)

    def get(self, name: str) -> StoredRollout:
        """A rollout by its id, or the latest one of an endpoint; raises `NotFound`."""
        found = self._select(schema.rollouts.c.id == name) or self.rollouts(name)
        if not found:
            raise NotFound(
                f"there is no rollout, and none of an endpoint, named {name!r}",
                hint="bascule rollout status lists them",
            )
        return found[-1]

    def decisions(
        self, rollout: str, *, after: int = 0, latest: int | None = None
    ) -> list[StoredDecision]:
        """In order: those after a number, or so many of the latest of them."""
        table = schema.decisions
        query = sa.select(table).where(table.c.rollout == rollout, table.c.number > after)
        rows = self.catalogue.rows(query.order_by(table.c.number.desc()).limit(latest))
        stored = [
            {str(name): value for name, value in row._mapping.items()} | {"decision": row.content}
            for row in reversed(rows)
        ]
        return msgspec.convert(stored, list[StoredDecision])

    def evidence(self, rollout: str, *, most: int) -> list[tuple[int, float | None]]:
        """The number of an interval and the evidence of harm after it, evenly chosen, in order.

        At most about `most`, and the last one: a rollout of a week has a million intervals.
        """
        table = schema.intervals
        mine = table.c.rollout == rollout
        last = sa.select(sa.func.max(table.c.number)).where(mine)
        of_all = sa.select(sa.func.count()).select_from(table).where(mine)
        total = sum(row[0] for row in self.catalogue.rows(of_all))
        every = max(1, total // most)
        chosen = sa.or_(table.c.number % every == 0, table.c.number == last.scalar_subquery())
        query = sa.select(table.c.number, table.c.log_e).where(mine, chosen)
        return [
            (row.number, row.log_e) for row in self.catalogue.rows(query.order_by(table.c.number))
        ]

    def intervals(self, rollout: str, after: int = 0) -> list[tuple[Interval, float | None]]:
        """The sealed intervals from number `after` on, with the evidence of harm after each."""
        table = schema.intervals
        query = sa.select(table).where(table.c.rollout == rollout, table.c.number >= after)
        rows = self.catalogue.rows(query.order_by(table.c.number))
        return [(msgspec.convert(row.content, Interval), row.log_e) for row in rows]

    def put_counts(self, rollout: str, source: str, counted: Interval) -> None:
        """Replace what a source has counted since it began; its `number` has no meaning."""
        values = {"stage": counted.stage, "content": msgspec.to_builtins(counted)}
        with self.catalogue.write() as connection:
            put(connection, schema.counts, {"rollout": rollout, "source": source}, values)

    def put_load_failure(self, rollout: str, host: str, failure: LoadFailure | None) -> None:
        """Store that a host cannot load a version; or with None, that it has loaded all."""
        table, source = schema.counts, _LOADING + host
        with self.catalogue.write() as connection:
            row = sa.and_(table.c.rollout == rollout, table.c.source == source)
            connection.execute(sa.delete(table).where(row))
            if failure is not None:
                nothing = msgspec.to_builtins(Interval(0, 0))
                content = {**nothing, "load_failure": msgspec.to_builtins(failure)}
                connection.execute(
                    sa.insert(table).values(
                        rollout=rollout, source=source, stage=0, content=content
                    )
                )

    def now(self) -> datetime:
        """By the clock of the catalogue: those of hosts differ."""
        with self.catalogue.read() as connection:
            return database_now(connection)

    def load_failures(self, rollout: str, now: datetime | None = None) -> tuple[LoadFailure, ...]:
        """The hosts that cannot load a version, by name; without those that went silent.

        `now`: see `now`, which None stands for.
        """
        table = schema.counts
        mine = sa.and_(table.c.rollout == rollout, table.c.source.startswith(_LOADING))
        rows = self.catalogue.rows(sa.select(table.c.content).where(mine).order_by(table.c.source))
        stored = [msgspec.convert(row.content["load_failure"], LoadFailure) for row in rows]
        now = self.now() if stored and now is None else now
        return tuple(failure for failure in stored if now is None or failure.until >= now)

    def troubles(self) -> dict[str, list[tuple[str, str]]]:
        """By endpoint that ever had a rollout: the ids of those in trouble, and what it is."""
        names = self.catalogue.rows(sa.select(schema.rollouts.c.endpoint).distinct())
        troubles: dict[str, list[tuple[str, str]]] = {row.endpoint: [] for row in names}
        for stored in self.active():
            if stored.latest is not None and stored.latest.trouble:
                entry = (stored.rollout.id, stored.latest.trouble)
                troubles.setdefault(stored.rollout.endpoint, []).append(entry)
        return troubles

    def compared_events(self, rollout: str) -> list[Any] | None:
        """The events by which the answers of a rollout are compared; None while none are chosen."""
        table = schema.counts
        query = sa.select(table.c.content).where(
            table.c.rollout == rollout, table.c.source == _EVENTS
        )
        rows = self.catalogue.rows(query)
        return rows[0].content if rows else None

    def choose_events(self, rollout: str, events: Sequence[Any]) -> list[Any] | None:
        """Compare the answers by these events from now on, or by those that were chosen before."""
        with self.catalogue.write() as connection:
            values = {"stage": 0, "content": list(map(list, events))}
            put_new(connection, schema.counts, {"rollout": rollout, "source": _EVENTS}, values)
        return self.compared_events(rollout)

    def seal(self, rollout: str, lease: Lease) -> list[Interval]:
        """Make intervals of what was counted since the last ones, one for each stage and share.

        Of durations, an interval keeps the counts beyond limits that the sealed ones give. Counts
        become part of one interval only, also if a process dies at any moment.

        Raises:
            Conflict: The lease is not held.
        """
        table = schema.counts
        with self.catalogue.write() as connection:
            check_held(connection, lease)
            row = connection.execute(
                sa.select(
                    schema.rollouts.c.content, schema.rollouts.c.sealed,
                    schema.rollouts.c.intervals,
                ).where(schema.rollouts.c.id == rollout)
            ).one()  # fmt: skip
            sealed = dict(row.sealed)
            counted = sa.select(table).where(table.c.rollout == rollout, table.c.source != _EVENTS)
            fresh = _fresh(connection.execute(counted), sealed)
            if not fresh:
                return []
            before = [msgspec.convert(total, Interval) for total in sealed.values()]
            guards = msgspec.convert(row.content, Rollout).guards
            limits = limits_of(guards, before)
            intervals: list[Interval] = []
            for stage, share in sorted({(part.stage, part.share) for part, _ in fresh.values()}):
                parts = [
                    (part, total)
                    for _, (part, total) in sorted(fresh.items())
                    if (part.stage, part.share) == (stage, share)
                ]
                seen = f"keys/{stage}/{share:g}"
                with_keys, units = add_keys(
                    summed([part for part, _ in parts]), [total for _, total in parts],
                    msgspec.convert(sealed.get(seen, _NOTHING), Told).firsts,
                )  # fmt: skip
                if units:  # counts nothing by itself
                    sealed[seen] = msgspec.to_builtins(Told(0, stage, firsts=units))
                intervals += [with_limits(interval, limits) for interval in with_keys]
            intervals = [
                msgspec.structs.replace(interval, number=number)
                for number, interval in enumerate(intervals, row.intervals)
            ]
            sealed |= {
                source: msgspec.to_builtins(msgspec.structs.replace(total, firsts=""))
                for source, (_, total) in fresh.items()
            }
            connection.execute(
                sa.insert(schema.intervals),
                [
                    {
                        "rollout": rollout, "number": interval.number,
                        "content": msgspec.to_builtins(interval),
                    }
                    for interval in intervals
                ],
            )  # fmt: skip
            total = row.intervals + len(intervals)
            self._update(connection, rollout, sealed=sealed, intervals=total)
        return intervals

    def append_cohorts(self, rollout: str, counted: Sequence[Cohort], lease: Lease) -> Cohorts:
        """Store what was counted of the cohorts, as far as it is new; all of them as of now.

        Raises:
            Conflict: The lease is not held.
        """
        before = self.cohorts(rollout)
        known = {cohort.number: cohort for cohort in before.cohorts}
        changed = [cohort for cohort in counted if known.get(cohort.number) != cohort]
        if not changed:
            return before
        revision = before.revision + 1
        with self.catalogue.write() as connection:
            check_held(connection, lease)
            connection.execute(
                sa.insert(schema.cohorts),
                [
                    {
                        "rollout": rollout, "revision": revision, "number": cohort.number,
                        "content": msgspec.to_builtins(cohort),
                    }
                    for cohort in changed
                ],
            )  # fmt: skip
        known |= {cohort.number: cohort for cohort in changed}
        return Cohorts(revision, _ordered(known.values()))

    def cohorts(self, rollout: str) -> Cohorts:
        """The cohorts as of their newest revision."""
        return self.cohorts_by_revision(rollout)(_NEWEST)

    def cohorts_by_revision(self, rollout: str) -> Callable[[int], Cohorts]:
        """What gives the cohorts as of a revision; it reads the catalogue once."""
        table = schema.cohorts
        query = sa.select(table).where(table.c.rollout == rollout).order_by(table.c.revision)
        rows = [
            (row.revision, msgspec.convert(row.content, Cohort))
            for row in self.catalogue.rows(query)
        ]

        def as_of(revision: int) -> Cohorts:
            seen = [(at, cohort) for at, cohort in rows if at <= revision]
            newest = {cohort.number: cohort for _, cohort in seen}
            latest = max((at for at, _ in seen), default=0)
            return Cohorts(latest, _ordered(newest.values()))

        return as_of

    def record(
        self, stored: StoredRollout, decided: StoredDecision, plan: StoredPlan | None,
        *, has_ended: bool, lease: Lease | None = None,
    ) -> None:  # fmt: skip
        """Store a decision, the plan that it makes, and the line of history, all or none.

        Raises:
            Superseded: Another decision was made meanwhile.
            Conflict: Another plan of the endpoint was made meanwhile; or the lease is not held.
        """
        rollout, decision = stored.rollout, decided.decision
        with self.catalogue.write() as connection:
            if lease is not None:
                check_held(connection, lease)
            self._endpoints.lock(connection, rollout.endpoint, rollout.started_at)
            newest = connection.scalar(
                sa.select(schema.rollouts.c.decisions).where(schema.rollouts.c.id == rollout.id)
            )
            if newest != decided.number - 1:
                raise _superseded(rollout.id)
            values = msgspec.to_builtins(decided)
            said = values.pop("decision")
            row = {**values, "at": decided.at, "rollout": rollout.id, "content": said}
            connection.execute(sa.insert(schema.decisions).values(row))
            self._update(
                connection, rollout.id, decisions=decided.number, latest=said,
                **({"ended_at": decided.at} if has_ended else {}),
            )  # fmt: skip
            kind = f"rollout_{said['state']['type']}"
            body = {"sentence": decision.sentence, "rollout": rollout.id, "log_e": decision.log_e}
            event = _event(rollout, kind, decided.at, decided.made_by, "", body)
            if plan is None:
                events.append(connection, event)
            else:
                self._endpoints.add_in(connection, [plan], [event])

    def look(self, stored: StoredRollout, decision: Decision, lease: Lease) -> None:
        """Store the latest look, which changed nothing, and its evidence.

        Raises:
            Superseded: A decision was made since `stored` was read: the look is of a former state.
            Conflict: The lease is not held.
        """
        rollout, table = stored.rollout.id, schema.rollouts
        with self.catalogue.write() as connection:
            check_held(connection, lease)
            looked = connection.execute(
                sa.update(table)
                .where(table.c.id == rollout, table.c.decisions == stored.decisions)
                .values(latest=msgspec.to_builtins(decision))
            )
            if not looked.rowcount:
                raise _superseded(rollout)
            if decision.intervals:
                intervals = schema.intervals
                connection.execute(
                    sa.update(intervals)
                    .where(
                        intervals.c.rollout == rollout,
                        intervals.c.number == decision.intervals - 1,
                    )
                    .values(log_e=decision.log_e.get("all"))
                )

    def _update(self, connection: sa.Connection, rollout: str, **values: Any) -> None:
        connection.execute(
            sa.update(schema.rollouts).where(schema.rollouts.c.id == rollout).values(**values)
        )

    def _select(
        self, condition: sa.ColumnElement[bool], latest: int | None = None
    ) -> list[StoredRollout]:
        table = schema.rollouts
        query = sa.select(table).where(condition).limit(latest)
        query = query.order_by(table.c.created_at.desc(), table.c.id.desc())
        return [
            StoredRollout(
                msgspec.convert(row.content, Rollout), row.decisions,
                msgspec.convert(row.latest, Decision) if row.latest else None,
                row.intervals, row.ended_at, row.created_by, row.reason,
            )
            for row in reversed(self.catalogue.rows(query))
        ]  # fmt: skip


def rollouts_needing(connection: sa.Connection, version: str) -> Iterator[str]:
    """The rollouts under way that need a version, in words."""
    table = schema.rollouts
    query = sa.select(table.c.content).where(table.c.ended_at.is_(None)).order_by(table.c.id)
    for content in connection.scalars(query):
        rollout = msgspec.convert(content, Rollout)
        if version in (rollout.candidate, rollout.current):
            yield f"rollout {rollout.id} is under way with it"


def _refuse_running(connection: sa.Connection, endpoint: str) -> None:
    table = schema.rollouts
    running = sa.select(table.c.id).where(table.c.endpoint == endpoint, table.c.ended_at.is_(None))
    if (other := connection.scalar(running)) is not None:
        raise Conflict(
            f"endpoint {endpoint} has a rollout under way: {other}",
            hint=f"bascule rollout abort {other}, or wait for its end",
        )


def _superseded(rollout: str) -> Superseded:
    return Superseded(f"rollout {rollout} has been decided on meanwhile", hint="try again")


def _ordered(cohorts: Iterable[Cohort]) -> tuple[Cohort, ...]:
    return tuple(sorted(cohorts, key=lambda cohort: cohort.order))


def _fresh(rows: Any, sealed: Mapping[str, Any]) -> dict[str, tuple[Interval, Told]]:
    """By source: what it has counted since it was sealed, and all of it."""
    made = {}
    for row in rows:
        total = msgspec.convert(row.content, Told)
        before = sealed.get(row.source)
        part = less(total, msgspec.convert(before or _NOTHING, Interval))
        if msgspec.structs.replace(part, number=0, stage=0, share=0.0) != Interval(0, 0):
            made[row.source] = part, total
    return made


def _event(
    rollout: Rollout, kind: str, at: datetime, by: str, reason: str, body: Mapping[str, Any]
) -> events.Event:
    return events.Event(events.Subject(SUBJECT, rollout.endpoint), kind, at, by, reason, body)


def plan_of(rollout: Rollout, decision: Decision, before: Plan) -> Plan:
    """The next plan of the endpoint, as a decision has it."""
    shares = decision.shares
    shadow = None
    if isinstance(decision.state, Promoted):
        arms = [Arm(CURRENT, rollout.candidate, 100.0), Arm(PREVIOUS, rollout.current, 0.0)]
    elif isinstance(decision.state, FINAL):
        arms = [Arm(CURRENT, rollout.current, 100.0)]
    else:
        arms = [Arm(CURRENT, rollout.current, 100.0 - shares.candidate_percent)]
        if shares.shadow_percent:
            alike = next(filter(None, (guard.alike for guard in rollout.guards)), Alike())
            shadow = Shadow(
                rollout.candidate, shares.shadow_percent, alike.distance, alike.embedding
            )
        else:
            arms.append(Arm(CANDIDATE, rollout.candidate, shares.candidate_percent))
    is_over = isinstance(decision.state, FINAL)
    return replace(
        before, number=before.number + 1, arms=tuple(arms), shadow=shadow,
        rollout="" if is_over else rollout.id, context=getattr(decision.state, "policy", None),
        timed_parts=() if is_over else parts_of(rollout.guards),
    )  # fmt: skip
