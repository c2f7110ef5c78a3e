"""The routes about devices: enrolment, their reports, and rollouts over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.core import Reference, Refused
from bascule.fleet import (
    HOLD_S,
    PHASES,
    Device,
    Enrolled,
    SampledRows,
    StoredDeviceRollout,
    operations as of_fleet,
    read_reports,
)

if TYPE_CHECKING:
    from bascule.fleet import Fleet


class NewDevice(Taken):
    """A device to make known."""

    device: str
    group: str


class Reports(Taken):
    """What a device says, in the order of its numbers."""

    reports: Annotated[list[dict[str, Any]], Field(max_length=200)]
    sent_at: Annotated[str, Field(max_length=64)] = ""


class NewDeviceRollout(Taken):
    """A version for the devices of a group."""

    version: str
    group: str
    phases: Annotated[tuple[float, ...], Field(min_length=1, max_length=20)] = PHASES
    hold_s: float = HOLD_S


def add_fleet(
    app: FastAPI, open_fleet: Callable[[], Fleet], authorise: Authorise, *, asks_for_keys: bool
) -> None:
    """Add the routes to `app`."""

    @serves(app, of_fleet.DEVICES)
    def devices(paged: Paged, group: str | None = None) -> Page[Device]:
        """The devices, by name."""
        return paged.page(open_fleet().devices(group), lambda device: device.name)

    @serves(app, of_fleet.ENROLL)
    def enroll(wanted: NewDevice, request: Request, response: Response) -> Enrolled:
        """Make a device known. `key` is shown this once; it may only report, as this device."""
        response.headers["Cache-Control"] = "no-store"
        return open_fleet().enroll(wanted.device, wanted.group, by=caller_of(request).user)

    @serves(app, of_fleet.REVOKE)
    def revoke(device: str, request: Request) -> Device:
        """End the key of a device; every server refuses it within a second."""
        return open_fleet().revoke(device, by=caller_of(request).user)

    @serves(app, of_fleet.REPORT)
    def report(sent: Reports, request: Request) -> dict[str, int]:
        """Keep the reports of a device, each once; `sequence`: the highest number that is here."""
        key, reports = caller_of(request).key, read_reports(sent.reports)
        if not reports:
            return {"sequence": 0}
        if asks_for_keys and not key:
            raise Refused("only the key of a device reports", hint="bascule edge enroll")
        device = reports[0].device
        received = open_fleet().receive({device: reports}, key=key, sent_at=sent.sent_at)
        return {"sequence": received[device]}

    @serves(app, of_fleet.ROWS)
    def rows(device: str, paged: Paged) -> Page[SampledRows]:
        """The rows that a device has sampled, by report."""
        return paged.page(open_fleet().rows(device), lambda sampled: sampled.sequence)

    @serves(app, of_fleet.ROLLOUTS)
    def rollouts(paged: Paged) -> Page[StoredDeviceRollout]:
        """The rollouts over devices, the latest first."""
        return paged.numbered(open_fleet().rollouts()[::-1], descending=True)

    @serves(app, of_fleet.BEGIN)
    def begin(wanted: NewDeviceRollout, request: Request) -> StoredDeviceRollout:
        """Have a version go to the devices of a group, phase by phase."""
        caller = authorise(request, "deploy", Reference.parse(wanted.version).model)
        return open_fleet().begin(**wanted.model_dump(), by=caller.user)

    @serves(app, of_fleet.ABORT)
    def abort(rollout: str, request: Request) -> StoredDeviceRollout:
        """Take a rollout back: its devices return to what the others run."""
        fleet = open_fleet()
        model = fleet.rollout(rollout).plan.candidate.partition("/")[0]
        caller = authorise(request, "deploy", model)
        return fleet.abort(rollout, by=caller.user)
