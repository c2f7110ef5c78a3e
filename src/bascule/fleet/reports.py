"""Reports of devices, read and checked: what they say is of another machine, and is bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Invalid, Reference, Untrusted
from bascule.edge import Offer
from bascule.stats import WindowProfile

BAD = ("golden_failed", "returned", "refused")
"""Events after which a device does not run what its channel offers."""
_HINT = "run the agent of this release"
_EMPTY = WindowProfile().to_json()
_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**8)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Counts(msgspec.Struct, frozen=True):
    """Requests that a version answered since the last report, and errors among them."""

    requests: _Count = 0
    errors: _Count = 0


class Sample(msgspec.Struct, frozen=True):
    """Rows drawn uniformly, inputs and outputs of each, and the probability to be drawn."""

    share: float
    rows: list[list[dict[str, Any]]]


class Report(msgspec.Struct, frozen=True):
    """One report; a device numbers its own from 1 on, and never uses a number again.

    `profile` is as `WindowProfile.to_json` gives it, `dropped` what the device had no room for.
    """

    device: _Text
    sequence: _Number
    at: _Text
    event: Literal["installed", "golden_failed", "returned", "refused", "counts"]
    running: Offer | None = None
    reason: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    counts: Counts = Counts()
    bytes_received: _Bytes = 0
    profile: dict[str, Any] | None = None
    sample: Sample | None = None
    dropped: dict[str, _Count] = {}


def read_reports(content: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Reports of one device, in the order of their numbers. Raises `Invalid`."""
    try:
        reports = msgspec.convert(content, list[Report])
        rows = [WindowProfile.from_json(report.profile or _EMPTY).rows for report in reports]
    except (msgspec.ValidationError, Untrusted) as problem:
        raise Invalid(f"reports: {problem}", hint=_HINT, field="reports") from None
    for report, profiled_rows in zip(reports, rows, strict=True):
        names = (report.running.version, report.running.digest) if report.running else ("",)
        is_sound = report.counts.errors <= report.counts.requests and max(map(len, names)) <= 200
        if report.profile is not None:
            is_sound &= 0 < profiled_rows < 2**40 and Reference.parse(names[0]).number is not None
        if not is_sound or report.device != reports[0].device:
            about = "is of another device, has more errors than requests, or names no version"
            raise Invalid(f"report {report.sequence} {about}", hint=_HINT, field="reports")
    return sorted(reports, key=lambda report: report.sequence)


def day_of(at: str, sent_at: str, enrolled_at: datetime, now: datetime) -> str:
    """The UTC day on which a device wrote a report, by the server's clock, as `2026-11-26`.

    `at` and `sent_at` are by the device's clock: what both are wrong by cancels out. A time before
    the device was enrolled or after `now`, when the report arrived, is wrong, and `now` counts.
    """
    try:
        moment = now - (datetime.fromisoformat(sent_at) - datetime.fromisoformat(at))
    except (ValueError, TypeError, OverflowError):
        moment = now
    return str((moment if enrolled_at <= moment <= now else now).astimezone(UTC).date())
