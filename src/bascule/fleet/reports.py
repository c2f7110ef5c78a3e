"""Reports of devices, read and checked: what they say is of another machine, and is bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Invalid
from bascule.edge import Offer

MAX_REPORTS = 200
BAD = ("golden_failed", "returned", "refused")
"""Events after which a device does not run what its channel offers."""
_MAX_REASON = 500
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
    reason: str = ""
    counts: Counts = Counts()
    bytes_received: _Bytes = 0


def read_reports(content: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Reports of one device, in the order of their numbers. Raises `Invalid`."""
    try:
        reports = msgspec.convert(content, list[Report])
    except msgspec.ValidationError as problem:
        raise Invalid(f"reports: {problem}", field="reports") from None
    if len({report.device for report in reports}) > 1:
        raise Invalid("reports: all must be of one device", field="reports")
    for report in reports:
        if report.counts.errors > report.counts.requests:
            raise Invalid(f"report {report.sequence} has more errors than requests")
        if report.running and max(map(len, (report.running.version, report.running.digest))) > 200:
            raise Invalid(f"report {report.sequence} names no version")
    cut = (
        msgspec.structs.replace(report, reason=report.reason[:_MAX_REASON]) for report in reports
    )
    return sorted(cut, key=lambda report: report.sequence)
