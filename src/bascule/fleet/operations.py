"""What the control API does with devices and with rollouts over them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bascule.fleet.rollouts import HOLD_S, PHASES, DevicePlan, DeviceState
from bascule.operations import Listing, Operation, Remote


@dataclass(frozen=True, slots=True)
class Device:
    """A device, as its reports say.

    Attributes:
        name: Of the device.
        group: Whose channel it follows.
        key: The id of its key, which ends at `revoked_at`.
        enrolled_at: When, and `enrolled_by` which user, it was made known.
        sequence: The highest number of a report that is here.
        seen_at: When its last new report came, by the server's clock.
        version: What it ran last.
        digest: Of its bundle.
        bytes_received: What it has downloaded since it was enrolled.
        stuck_on: The version that it refused or left, until it installs another; empty for none.
        stuck_since: When the server heard so.
        stuck_reason: Why, as the device says.
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
    """A device that was made known. `key` is its token, shown this once; `root` the trusted root.

    Without a repository the root is empty.
    """

    device: str
    group: str
    key: str
    root: str


@dataclass(frozen=True, slots=True)
class StoredDeviceRollout:
    """A rollout, its state after so many `changes`, and when its channel had the last word."""

    id: str
    plan: DevicePlan
    state: DeviceState
    changes: int
    created_at: datetime
    created_by: str
    reason: str
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Have a version, a reference, go to the devices of a group; see `DevicePlan`."""

    version: str
    group: str
    phases: tuple[float, ...] = PHASES
    hold_s: float = HOLD_S
    reason: str = ""


DEVICES = Listing("GET edge/devices", "read", "*", Device)
ENROLL = Operation(
    "POST edge/devices", "keys", "", Enrolled, status=201, history="device_enrolled", is_once=True
)
REVOKE = Operation("DELETE edge/devices/{device}", "keys", "", Device, history="device_revoked")
REPORT = Operation(
    "POST edge/reports", "report", "", dict[str, int], is_once=True, max_body_bytes=4 << 20
)
ROLLOUTS = Listing("GET edge/rollouts", "read", "*", StoredDeviceRollout)
ROLLOUT = Operation("GET edge/rollouts/{rollout}", "read", "*", StoredDeviceRollout)
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

    def rollouts(self) -> list[StoredDeviceRollout]:
        return self.items(ROLLOUTS)

    def rollout(self, name: str) -> StoredDeviceRollout:
        return self.ask(ROLLOUT, rollout=name)

    def begin(self, request: RolloutRequest, *, by: str) -> StoredDeviceRollout:
        return self.ask(BEGIN, request, by=by)

    def abort(self, name: str, *, by: str, reason: str = "") -> StoredDeviceRollout:
        return self.ask(ABORT, {"reason": reason}, by=by, rollout=name)
