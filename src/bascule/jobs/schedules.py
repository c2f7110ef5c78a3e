"""Schedules in the catalogue: each change and each run is an event of its history.

The state of a schedule is what its events add up to, so it needs no table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.catalogue import Catalogue, check_held, events
from bascule.core import Conflict, NotFound
from bascule.jobs.dates import check_dates
from bascule.jobs.due import Schedule, Scheduled, retry_at
from bascule.jobs.records import FAILED, KILLED

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bascule.catalogue import Lease

_KIND = "schedule"
_CHANGES = ("schedule_added", "schedule_paused", "schedule_resumed", "schedule_removed")
_BAD = (FAILED, KILLED)
_STARTED, _ENDED = "schedule_run_started", "schedule_run_ended"


class Schedules:
    """The schedules of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def add(self, schedule: Schedule, *, by: str, reason: str = "") -> None:
        """Keep a new one.

        Raises:
            Conflict: There is one of this name.
            Invalid: Its job has a date that there is not.
        """
        check_dates(schedule.job)
        self._catalogue.create()
        with self._catalogue.write() as connection:
            if schedule.name in _folded(connection):
                raise Conflict(
                    f"there is a schedule {schedule.name!r}",
                    hint=f"bascule schedule remove {schedule.name}, or choose another name",
                )
            content = msgspec.to_builtins(schedule)
            _append(connection, schedule.name, _CHANGES[0], by, content, reason)

    def put(self, schedule: Schedule, *, by: str, reason: str = "") -> None:
        """Keep it in place of the one of its name, if there is one. A run under way goes on.

        Raises:
            Invalid: Its job has a date that there is not.
        """
        check_dates(schedule.job)
        self._catalogue.create()
        with self._catalogue.write() as connection:
            if schedule.name in _folded(connection):
                _append(connection, schedule.name, _CHANGES[3], by, {}, reason)
            content = msgspec.to_builtins(schedule)
            _append(connection, schedule.name, _CHANGES[0], by, content, reason)

    def pause(self, name: str, *, by: str, reason: str = "") -> None:
        """Run nothing until `resume`. A run under way goes on."""
        self._change(name, _CHANGES[1], by, reason)

    def resume(self, name: str, *, by: str, reason: str = "") -> None:
        """Run again. What was missed meanwhile is caught up as the schedule says."""
        self._change(name, _CHANGES[2], by, reason)

    def remove(self, name: str, *, by: str, reason: str = "") -> None:
        """Forget it; its history stays."""
        self._change(name, _CHANGES[3], by, reason)

    def list(self) -> list[Scheduled]:
        """All, by name."""
        try:
            with self._catalogue.read() as connection:
                found = _folded(connection)
                return [_with_runs(connection, found[name]) for name in sorted(found)]
        except NotFound:
            return []

    def get(self, name: str) -> Scheduled:
        """One of them. Raises `NotFound`."""
        found = next((one for one in self.list() if one.schedule.name == name), None)
        if found is None:
            raise NotFound(f"no schedule {name!r}", hint="bascule schedule list")
        return found

    def started(
        self, name: str, due: datetime, *, by: str, lease: Lease | None,
        also: Callable[[sa.Connection], object] = lambda _connection: None,
    ) -> None:  # fmt: skip
        """Record that a run begins, with what is `also` written in the transaction.

        Raises:
            Conflict: The lease is no longer held.
        """
        with self._catalogue.write() as connection:
            if lease is not None:
                check_held(connection, lease)
            _append(connection, name, _STARTED, by, {"due": due.isoformat()})
            also(connection)

    def ended(
        self, name: str, due: datetime, outcome: Mapping[str, Any], *, by: str, state: str = ""
    ) -> None:
        """Record what a run did, or `{"error": ...}`."""
        with self._catalogue.write() as connection:
            record_end(connection, name, due, outcome, by=by, state=state)

    def _change(self, name: str, kind: str, by: str, reason: str) -> None:
        self.get(name)
        with self._catalogue.write() as connection:
            _append(connection, name, kind, by, {}, reason)


def record_end(
    connection: sa.Connection, name: str, due: datetime, outcome: Mapping[str, Any], *, by: str,
    state: str = "",
) -> None:  # fmt: skip
    """See `Schedules.ended`; with the transaction."""
    content = {"due": due.isoformat(), "outcome": dict(outcome), "state": state}
    _append(connection, name, _ENDED, by, content)


def schedules_needing(connection: sa.Connection, version: str) -> Iterator[str]:
    """The schedules whose jobs score with this very version, in words; a paused one may resume."""
    for name, schedule in sorted(_folded(connection).items()):
        if schedule.job.get("model") == version:
            paused = " (paused)" if schedule.is_paused else ""
            yield f"schedule {name}{paused} scores with it"


def _append(
    connection: sa.Connection, name: str, kind: str, by: str, body: Mapping[str, Any],
    reason: str = "",
) -> None:  # fmt: skip
    subject = events.Subject(_KIND, name)
    events.append(connection, events.Event(subject, kind, datetime.now(UTC), by, reason, body))


def _folded(connection: sa.Connection) -> dict[str, Schedule]:
    found: dict[str, Schedule] = {}
    for event in events.find(connection, subject_kind=_KIND, kinds=_CHANGES):
        name = event.subject.name
        if event.kind == "schedule_added":
            found[name] = msgspec.convert(event.body, Schedule)
        elif event.kind == "schedule_removed":
            found.pop(name, None)
        elif name in found:
            is_paused = event.kind == "schedule_paused"
            found[name] = msgspec.structs.replace(found[name], is_paused=is_paused)
    return found


def _with_runs(connection: sa.Connection, schedule: Schedule) -> Scheduled:
    subject = events.Subject(_KIND, schedule.name)
    latest = events.find(
        connection, subject=subject, kinds=(_STARTED, _ENDED), since=schedule.created_at,
        latest_first=True, limit=2 * schedule.retries + 2,
    )  # fmt: skip
    if not latest:
        return Scheduled(schedule)
    ends = [one for one in latest if one.kind == _ENDED]
    is_under_way, due = latest[0].kind == _STARTED, latest[0].body["due"]
    failed = takewhile(lambda one: one.body["due"] == due and one.body.get("state") in _BAD, ends)
    again = retry_at(schedule, len(list(failed)), None if is_under_way else latest[0].at)
    return Scheduled(
        schedule, datetime.fromisoformat(due), is_under_way,
        ends[0].body["outcome"] if ends else None, again,
    )  # fmt: skip
