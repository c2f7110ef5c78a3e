"""Devices, their reports and rollouts in the catalogue. All times are of the server's clock."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

import msgspec
import sqlalchemy as sa

from bascule.catalogue import Catalogue, Lease, check_held, events, put_new, where
from bascule.core import Conflict, NotFound, Refused, check_name
from bascule.edge import Channel, Offer
from bascule.fleet import schema
from bascule.fleet.operations import Device, Enrolled, SampledRows, StoredDeviceRollout
from bascule.fleet.reports import BAD, Report, day_of
from bascule.fleet.rollouts import (
    HOLD_S,
    PHASES,
    DevicePlan,
    DeviceState,
    Seen,
    begun,
    content,
    decide,
    is_anothers,
    look_due,
)
from bascule.monitoring.profiles import RETENTION_DAYS, write_channel_windows
from bascule.registry.stores import Transaction
from bascule.security import check_is_free, new_key, permissions_of_role
from bascule.stats import WindowProfile

if TYPE_CHECKING:
    from bascule.fleet.operations import RemoteFleet
    from bascule.registry import Registry

KEPT = timedelta(days=30)
"""Of reports; a decision reads those of the last five phases, each of at most five days."""
_devices, _reports, _rollouts = schema.devices, schema.reports, schema.rollouts
_windows, _WINDOW, _MAX_COLUMNS = schema.windows, ("version", "group", "day"), 4_096
_OVERLAP = timedelta(minutes=1)


class Channels(Protocol):
    """What devices are offered: a signed repository."""

    def channel(self, name: str) -> Channel | None:
        """What a channel says; None where there is none. Raises `NotFound`: no repository."""

    def publish_channel(self, name: str, content: Channel) -> None:
        """Have a channel say this. Raises `Conflict` where `sequence` is not the next one."""

    def root(self) -> bytes:
        """The trusted root, for devices that are enrolled. Raises `NotFound`."""

    def refresh(self) -> None:
        """See `TufRepository.refresh`. Raises `NotFound`."""


class Fleet:
    """The devices of a catalogue, and what they are offered."""

    def __init__(
        self, catalogue: Catalogue, channels: Channels, open_registry: Callable[[], Registry],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.catalogue, self._channels, self._registry = catalogue, channels, open_registry
        self._clock = clock

    # -- devices --

    def enroll(self, name: str, group: str, *, by: str) -> Enrolled:
        """Make a device known. One whose key was revoked may come back; it numbers reports on.

        Raises:
            Conflict: It has a live key.
            NotFound: There is no repository yet.
        """
        check_name(name, what="device")
        check_name(group, what="group")
        self.catalogue.create()
        now, root = self._clock(), self._channels.root()
        key, token = new_key(f"device-{name}", permissions_of_role("device"), now=now, by=by)
        about = {"group": group, "key": key.id, "enrolled_at": now, "enrolled_by": by}
        with self.catalogue.write(alone=True) as connection:
            keys = Transaction(connection)
            check_is_free(key.name, keys.keys(key.name), now=now)
            keys.add_key(key)
            put_new(connection, _devices, {"name": name}, NEW | about)
            again = sa.update(_devices).where(_devices.c.name == name)
            connection.execute(again.values(**about, revoked_at=None))
            event = events.Event(_of(name), "device_enrolled", now, by, body={"group": group})
            events.append(connection, event)
        return Enrolled(name, group, token, root.decode())

    def revoke(self, name: str, *, by: str) -> Device:
        """End the key of a device; fine where it has ended. Raises `NotFound`."""
        now = self._clock()
        with self.catalogue.write() as connection:
            device = _device(connection, name)
            if device.revoked_at is None:
                Transaction(connection).end_key(device.key, at=now, by=by)
                change = sa.update(_devices).where(_devices.c.name == name)
                connection.execute(change.values(revoked_at=now))
                events.append(connection, events.Event(_of(name), "device_revoked", now, by))
            return _device(connection, name)

    def devices(self, group: str | None = None) -> list[Device]:
        """Those of a group, or all, by name."""
        query = sa.select(_devices).order_by("name")
        if group is not None:
            query = query.where(_devices.c.group == group)
        return list(map(_device_of, self.catalogue.rows(query)))

    # -- reports --

    def receive(
        self, reports: Mapping[str, Sequence[Report]], *, key: str = "", sent_at: str = ""
    ) -> dict[str, int]:
        """Keep the reports of devices, each once, and return the highest number of each device.

        Args:
            reports: By device, in the order of their numbers.
            key: The id of the key of the caller; empty for one that may report for any device.
            sent_at: The time by the device's clock.

        Raises:
            NotFound: A device is not enrolled.
            Refused: The key is of another device, or the device was revoked.
        """
        now = self._clock()
        with self.catalogue.write() as connection:
            query = sa.select(_devices).where(_devices.c.name.in_(sorted(reports)))
            rows = connection.execute(query.order_by("name").with_for_update())
            devices = {row.name: dict(row._mapping) for row in rows}
            fresh: list[Report] = []
            for name, sent in reports.items():
                device = devices.get(name) or _unknown(name)
                if device["revoked_at"] is not None or (key and device["key"] != key):
                    raise Refused(f"the key is not that of {name}", hint=_ENROLL)
                fresh += [report for report in sent if report.sequence > device["sequence"]]
            for report in fresh:
                _take(devices[report.device], report, now)
            _add_profiles(connection, fresh, devices, sent_at, now)
            if fresh:
                connection.execute(sa.insert(_reports), [_row(report, now) for report in fresh])
                changed = {report.device for report in fresh}
                change = sa.update(_devices).where(_devices.c.name == sa.bindparam("device"))
                values: dict[str, Any] = {name: sa.bindparam(name) for name in _TAKEN}
                rows_now = [{**devices[name], "device": name} for name in changed]
                connection.execute(change.values(values), rows_now)
            return {name: int(devices[name]["sequence"]) for name in reports}

    def refresh(self) -> None:
        """Sign anew what devices are offered, where it is half over."""
        with suppress(NotFound):  # nothing was published
            self._channels.refresh()

    def rows(self, name: str) -> list[SampledRows]:
        """The rows that a device has sampled, the latest last; deleted with their reports."""
        table, empty = _reports.c, {"share": 0.0, "rows": []}
        has_any = table.sample.is_not(None) | table.dropped.is_not(None)
        query = sa.select(_reports).where(table.device == name, has_any).order_by("sequence")
        return [
            SampledRows(
                row.sequence, row.received_at, row.version, dropped=row.dropped or {},
                **(row.sample or empty),
            )
            for row in self.catalogue.rows(query)
        ]  # fmt: skip

    def forget(self) -> None:
        """Delete the reports that no decision will read."""
        now = self._clock()
        with self.catalogue.write() as connection:
            connection.execute(sa.delete(_reports).where(_reports.c.received_at < now - KEPT))
            connection.execute(sa.delete(_windows).where(_windows.c.day < _first_day(now)))

    def copy_windows(self, home: Path, since: datetime) -> datetime:
        """Copy the profiles that have changed since to a home, where drift is measured.

        Version 4 on channel `stable` is `4@stable` there. Returns from when to copy next: some time
        ago, for what other hosts write.
        """
        now, columns = self._clock(), [_windows.c[name] for name in (*_WINDOW, "profile")]
        changed = sa.select(*columns).where(_windows.c.changed_at >= since)
        write_channel_windows(home, self.catalogue.rows(changed), _first_day(now))
        return now - _OVERLAP

    def seen(self, plan: DevicePlan, since: datetime, now: datetime) -> list[Seen]:
        """What each device of the group has reported about a phase that began at `since`."""
        table, is_later = _reports.c, _reports.c.received_at >= since
        is_candidate = table.digest == plan.candidate_digest
        arms = (~is_later & ~is_candidate, is_later & ~is_candidate, is_later & is_candidate)
        flags = (
            is_later & table.event.in_(BAD),
            is_later & is_candidate & table.event.in_(("installed", "counts")), ~is_later,
        )  # fmt: skip
        counts = [
            sa.func.coalesce(sa.func.sum(sa.case((condition, count), else_=0)), 0)
            for condition in (*arms, *flags)
            for count in (table.requests, table.errors, 1)
        ]
        first = since - timedelta(seconds=plan.hold_s)
        in_window = (table.device == _devices.c.name) & table.received_at.between(first, now)
        query = (
            sa.select(_devices.c.name, sa.func.max(table.received_at), *counts)
            .select_from(sa.outerjoin(_devices, _reports, in_window))
            .where(_devices.c.group == plan.group, _devices.c.revoked_at.is_(None))
            .group_by(_devices.c.name)
        )
        return [_seen(*row) for row in map(tuple, self.catalogue.rows(query))]

    # -- rollouts --

    def begin(
        self, version: str, group: str, *, by: str, phases: Sequence[float] = PHASES,
        hold_s: float = HOLD_S,
    ) -> StoredDeviceRollout:  # fmt: skip
        """Have a version go to the devices of a group, phase by phase.

        Raises:
            NotFound: The channel of the group offers nothing yet.
            Conflict: The group has a rollout, or its channel is of another model or offers this.
            Refused: The version failed its gates.
        """
        chosen = self._registry().resolve(version)
        channel, now = self._channels.channel(group), self._clock()
        if channel is None:
            hint = f"bascule edge publish {chosen} --channel {group}"
            raise NotFound(f"channel {group} offers nothing yet", hint=hint)
        if channel.model != chosen.model or channel.stable.digest == chosen.digest:
            hint = "choose another version of its model"
            raise Conflict(f"channel {group} offers {channel.stable.version}", hint=hint)
        if chosen.gates == "failed":
            raise Refused(f"{chosen} failed its gates", hint=f"bascule check {chosen}")
        plan = DevicePlan(
            id=f"{group}-{secrets.token_hex(3)}", group=group, salt=secrets.token_hex(16),
            stable=channel.stable.version, stable_digest=channel.stable.digest,
            candidate=str(chosen), candidate_digest=chosen.digest,
            phases=tuple(phases), hold_s=hold_s,
        )  # fmt: skip
        plan.check()
        state = begun(plan, now)
        with self.catalogue.write(alone=True) as connection:
            running = sa.select(_rollouts.c.id).filter_by(group=group, ended_at=None)
            if (other := connection.scalar(running)) is not None:
                hint = f"bascule edge rollout abort {other}"
                raise Conflict(f"rollout {other} of {group} has not ended", hint=hint)
            new = {
                "id": plan.id, "group": group, "created_at": now, "created_by": by, "changes": 0,
                "plan": _json(plan), "state": _json(state),
            }  # fmt: skip
            connection.execute(sa.insert(_rollouts).values(new))
            _note(connection, plan, state, now, by)
        return self.rollout(plan.id)

    def rollouts(self, *, active: bool = False) -> list[StoredDeviceRollout]:
        """All, or those of which the channel has not had its last word; the latest first."""
        query = sa.select(_rollouts).order_by(_rollouts.c.created_at.desc(), _rollouts.c.id)
        if active:
            query = query.where(_rollouts.c.ended_at.is_(None))
        return list(map(_rollout_of, self.catalogue.rows(query)))

    def rollout(self, name: str) -> StoredDeviceRollout:
        """One, by its id. Raises `NotFound`."""
        rows = self.catalogue.rows(sa.select(_rollouts).where(_rollouts.c.id == name))
        if not rows:
            raise NotFound(f"no rollout {name[:64]!r}", hint="bascule edge rollout show")
        return _rollout_of(rows[0])

    def abort(self, name: str, *, by: str) -> StoredDeviceRollout:
        """Take a rollout back: its devices return to what the others run.

        Raises:
            Conflict: It has ended.
        """
        stored = self.rollout(name)
        if stored.state.status != "running":
            hint = "bascule edge rollout start begins another one"
            raise Conflict(f"rollout {name} is {stored.state.status}", hint=hint)
        state = replace(stored.state, status="aborted", sentence=f"aborted by {by}")
        return self._change(stored, state, by)

    def advance(self, stored: StoredDeviceRollout, lease: Lease | None = None) -> None:
        """Look where a look is due, store what it decides, and have the channel say so.

        The state is stored before the channel is written. Killed in between, the next turn finds
        a channel that does not say what the state says, and writes it.
        """
        now, plan = self._clock(), stored.plan
        channel = self._channels.channel(plan.group)
        if channel is None or is_anothers(plan, stored.state, channel):
            if stored.state.status == "running":
                sentence = "aborted: its channel was given another version"
                state = replace(stored.state, status="aborted", sentence=sentence)
                stored = self._change(stored, state, "rollouts", lease)
            self._end(stored)
            return
        number = look_due(plan, stored.state, now)
        if number is not None:
            seen = self.seen(plan, stored.state.since, now)
            state = decide(plan, stored.state, number, seen, now)
            stored = self._change(stored, state, "rollouts", lease)
        if (text := content(plan, stored.state, channel)) is not None:
            self._channels.publish_channel(plan.group, text)
        elif stored.state.status != "running":
            self._end(stored)

    def _change(
        self, stored: StoredDeviceRollout, state: DeviceState, by: str, lease: Lease | None = None
    ) -> StoredDeviceRollout:
        """Store the next state. Raises `Conflict` where another was stored meanwhile."""
        with self.catalogue.write() as connection:
            if lease is not None:
                check_held(connection, lease)
            same = (_rollouts.c.id == stored.id) & (_rollouts.c.changes == stored.changes)
            values = {"state": _json(state), "changes": stored.changes + 1}
            if not connection.execute(sa.update(_rollouts).where(same).values(values)).rowcount:
                raise Conflict(f"rollout {stored.id} was changed meanwhile", hint="try again")
            if state.sentence != stored.state.sentence:
                _note(connection, stored.plan, state, self._clock(), by)
        return self.rollout(stored.id)

    def _end(self, stored: StoredDeviceRollout) -> None:
        """The channel had its last word; what was stuck on a version that is gone is free."""
        plan = stored.plan
        with self.catalogue.write() as connection:
            change = sa.update(_rollouts).where(_rollouts.c.id == stored.id)
            connection.execute(change.values(ended_at=self._clock()))
            if stored.state.status != "promoted":
                stuck = (_devices.c.group == plan.group) & (_devices.c.stuck_on == plan.candidate)
                connection.execute(sa.update(_devices).where(stuck).values(_FREE))


FleetBook: TypeAlias = "Fleet | RemoteFleet"
"""What both can do; see `Fleet` for the methods."""
_FREE: dict[str, Any] = {"stuck_on": "", "stuck_since": None, "stuck_reason": ""}
NEW: dict[str, Any] = {"sequence": 0, "bytes_received": 0, "version": "", "digest": "", **_FREE}
_TAKEN = ("seen_at", *NEW)
_MAX_REASON = 500
_ENROLL = "bascule edge enroll makes another file for it"


def _take(device: dict[str, Any], report: Report, now: datetime) -> None:
    """Change the columns of a device by a report that is new."""
    running = report.running or Offer("", "")
    device |= {"sequence": report.sequence, "seen_at": now}
    device["bytes_received"] += report.bytes_received
    if report.event in BAD:
        since = device["stuck_since"] if device["stuck_on"] == running.version else None
        device |= {"stuck_on": running.version, "stuck_since": since or now}
        device["stuck_reason"] = report.reason[:_MAX_REASON] or report.event
    elif running.digest:
        device |= {"version": running.version, "digest": running.digest}
        if report.event == "installed":
            device |= _FREE


def _row(report: Report, now: datetime) -> dict[str, Any]:
    running = report.running or Offer("", "")
    return {
        "device": report.device, "sequence": report.sequence, "received_at": now,
        "at": report.at, "event": report.event, "reason": report.reason[:_MAX_REASON],
        "version": running.version, "digest": running.digest,
        "requests": report.counts.requests, "errors": report.counts.errors,
        "sample": _plain(report.sample), "dropped": report.dropped or None,
    }  # fmt: skip


def _add_profiles(
    connection: sa.Connection, reports: Sequence[Report], devices: Mapping[str, Any], sent_at: str,
    now: datetime,
) -> None:  # fmt: skip
    """Add what reports profiled to the windows of their version, group and UTC day."""
    profiled = []
    for report in reports:
        if report.profile is not None and report.running is not None:
            device = devices[report.device]
            day = day_of(report.at, sent_at, device["enrolled_at"], now)
            profiled.append(((report.running.version, device["group"], day), report.profile))
    # In one order, so that no two transactions wait for each other.
    for names, profile in sorted(profiled, key=itemgetter(0)):
        key = dict(zip(_WINDOW, names, strict=True))
        put_new(
            connection, _windows, key, {"changed_at": now, "profile": WindowProfile().to_json()}
        )
        same = where(_windows, **key)
        stored = connection.execute(sa.select(_windows.c.profile).where(same).with_for_update())
        window = WindowProfile.from_json(stored.scalar_one())
        window.merge(WindowProfile.from_json(profile))
        if len(window.inputs.columns) + len(window.outputs.columns) <= _MAX_COLUMNS:
            values = {"changed_at": now, "profile": _plain(window.to_json())}
            connection.execute(sa.update(_windows).where(same).values(values))


def _first_day(now: datetime) -> str:
    return str((now - timedelta(days=RETENTION_DAYS)).date())


def _plain(value: Any) -> Any:
    """As JSON, with null for numbers that JSON does not have."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=float))


def _seen(device: str, seen_at: datetime | None, *sums: Any) -> Seen:
    """Of each arm, then of each flag: requests, errors and reports."""
    before, stayed, candidate = ((int(sums[at]), int(sums[at + 1])) for at in (0, 3, 6))
    is_bad, has_taken, was_heard = (sums[at] > 0 for at in (11, 14, 17))
    return Seen(device, before, stayed, candidate, is_bad, has_taken, was_heard, seen_at)


def _device(connection: sa.Connection, name: str) -> Device:
    row = connection.execute(sa.select(_devices).filter_by(name=name)).one_or_none()
    return _unknown(name) if row is None else _device_of(row)


def _device_of(row: sa.Row[Any]) -> Device:
    return Device(**row._mapping)


def _rollout_of(row: sa.Row[Any]) -> StoredDeviceRollout:
    return StoredDeviceRollout(
        row.id, msgspec.convert(row.plan, DevicePlan), msgspec.convert(row.state, DeviceState),
        row.changes, row.created_at, row.created_by, row.ended_at,
    )  # fmt: skip


def _json(value: DevicePlan | DeviceState) -> Any:
    return msgspec.to_builtins(asdict(value))


def _unknown(name: str) -> NoReturn:
    raise NotFound(f"no device {name[:64]!r}", hint="bascule edge devices lists them")


def _of(device: str) -> events.Subject:
    return events.Subject("device", device)


def _note(
    connection: sa.Connection, plan: DevicePlan, state: DeviceState, now: datetime, by: str
) -> None:
    subject = events.Subject("channel", plan.group)
    body = {"sentence": f"{plan.candidate}: {state.sentence}", "rollout": plan.id}
    events.append(connection, events.Event(subject, "device_rollout", now, by, body=body))
