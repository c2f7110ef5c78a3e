"""What the control API does with devices and with rollouts over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bascule.fleet.rollouts import HOLD_S, PHASES, DevicePlan, DeviceState
from bascule.operations import Listing, Operation, Remote


@dataclass(frozen=True, slots=True)
class Device:
    """A device, as its reports say. Times are of the server's clock.

    Attributes:
        group: It follows the channel of this name.
        key: The id of its key.
        sequence: The highest number of a report that is here.
        version: What it ran last.
        bytes_received: Since it was enrolled.
        stuck_on: The version that it refused or left, until it installs another; empty for none.
    """

    name: str
    group: str
    key: str
    enrolled_at: datetime
    enrolled_by: str
    revoked_at: datetime | None
    sequence: int
    seen_at: datetime | None
    version: str
    digest: str
    bytes_received: int
    stuck_on: str
    stuck_since: datetime | None
    stuck_reason: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The token of a new device, shown this once, and the root that it trusts, as JSON."""

    device: str
    group: str
    key: str
    root: str


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Inputs and outputs of rows that a device drew, each with the probability `share`.

    `dropped`: how many rows (`sample`), profiles and reports it had no room for before.
    """

    sequence: int
    received_at: datetime
    version: str
    share: float
    rows: list[list[dict[str, Any]]]
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class StoredDeviceRollout:
    """A rollout, its state after so many `changes`, and when its channel had the last word."""

    id: str
    plan: DevicePlan
    state: DeviceState
    changes: int
    created_at: datetime
    created_by: str
    ended_at: datetime | None


DEVICES = Listing("GET edge/devices", "read", "*", Device)
ENROLL = Operation(
    "POST edge/devices", "keys", "", Enrolled, status=201, history="device_enrolled", is_once=True
)
REVOKE = Operation("DELETE edge/devices/{device}", "keys", "", Device, history="device_revoked")
REPORT = Operation(
    "POST edge/reports", "report", "", dict[str, int], is_once=True, max_body_bytes=4 << 20
)
# Rows are data of people: the right to read metadata is not enough.
ROWS = Listing("GET edge/devices/{device}/rows", "manage", "*", SampledRows)
ROLLOUTS = Listing("GET edge/rollouts", "read", "*", StoredDeviceRollout)
# Of which model is in the body, or known by the rollout: asked then.
BEGIN = Operation(
    "POST edge/rollouts", "deploy", "", StoredDeviceRollout, status=201, history="device_rollout"
)
ABORT = Operation(
    "POST edge/rollouts/{rollout}/abort", "deploy", "", StoredDeviceRollout,
    history="device_rollout",
)  # fmt: skip


class RemoteFleet(Remote):
    """See `store.Fleet`."""

    def enroll(self, name: str, group: str, *, by: str) -> Enrolled:
        return self.ask(ENROLL, {"device": name, "group": group}, by=by)

    def revoke(self, name: str, *, by: str) -> Device:
        return self.ask(REVOKE, by=by, device=name)

    def devices(self, group: str | None = None) -> list[Device]:
        return self.items(DEVICES, group=group)

    def rows(self, name: str) -> list[SampledRows]:
        return self.items(ROWS, device=name)

    def rollouts(self) -> list[StoredDeviceRollout]:
        return self.items(ROLLOUTS)

    def begin(
        self, version: str, group: str, *, by: str, phases: Sequence[float] = PHASES,
        hold_s: float = HOLD_S,
    ) -> StoredDeviceRollout:  # fmt: skip
        content = {"version": version, "group": group, "phases": phases, "hold_s": hold_s}
        return self.ask(BEGIN, content, by=by)

    def abort(self, name: str, *, by: str) -> StoredDeviceRollout:
        return self.ask(ABORT, by=by, rollout=name)
