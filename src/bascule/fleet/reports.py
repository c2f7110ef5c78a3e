"""Reports of devices, read and checked: what they say is of another machine, and is bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Invalid
from bascule.edge import Offer

BAD = ("golden_failed", "returned", "refused")
"""Events after which a device does not run what its channel offers."""
_HINT = "run the agent of this release"
_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**8)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Counts(msgspec.Struct, frozen=True):
    """Requests that a version answered since the last report, and errors among them."""

    requests: _Count = 0
    errors: _Count = 0


class Report(msgspec.Struct, frozen=True):
    """One report; a device numbers its own from 1 on, and never uses a number again."""

    device: _Text
    sequence: _Number
    at: _Text
    event: Literal["installed", "golden_failed", "returned", "refused", "counts"]
    running: Offer | None = None
    reason: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    counts: Counts = Counts()
    bytes_received: _Bytes = 0


def read_reports(content: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Reports of one device, in the order of their numbers. Raises `Invalid`."""
    try:
        reports = msgspec.convert(content, list[Report])
    except msgspec.ValidationError as problem:
        raise Invalid(f"reports: {problem}", hint=_HINT, field="reports") from None
    for report in reports:
        names = (report.running.version, report.running.digest) if report.running else ("",)
        is_sound = report.counts.errors <= report.counts.requests and max(map(len, names)) <= 200
        if not is_sound or report.device != reports[0].device:
            about = "is of another device, has more errors than requests, or names no version"
            raise Invalid(f"report {report.sequence} {about}", hint=_HINT, field="reports")
    return sorted(reports, key=lambda report: report.sequence)
