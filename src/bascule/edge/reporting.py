"""Reports that wait for the server: a file each, within a byte budget, sent until they are there.

A report that was sent once is never changed, because the server may have it: it is sent again as
it is. Of those that were not, the oldest counts are merged first when the budget is used up, so a
device that is offline for months keeps all of them in few reports. Order is by number: the
device's clock may jump. A loss of power during a merge loses counts, and counts nothing twice.
`python -m bascule.edge.reporting` sends some, in a process of its own, which has the client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bascule.core import Unavailable, answer_parent, replacing, sync_folder, synced, writing
from bascule.edge.slots import State
from bascule.stats import Quantiles

_BATCH, _MAX_REQUESTS = 100, 10**8
_SEND_S = 30.0
_NEVER = (400, 413, 422)
"""Statuses of reports that stay unacceptable: they are given up, or none would follow them."""


class Outbox:
    """The folder of the reports of one device."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def add(self, state: State, report: Mapping[str, Any]) -> int:
        """Put a report in, and return its number, which no other report ever had.

        Raises:
            Invalid: The disk is full, or fails.
        """
        number = 1 + max(state.sequence, state.attempted, *self._files(), 0)
        self._write({**report, "sequence": number})
        self._fit(state.attempted)
        return number

    def batch(self, state: State) -> tuple[State, list[Path]]:
        """The reports to send next, oldest first, and the state to write before they are sent."""
        files = self._files()
        numbers = [number for number in files if number <= state.attempted] or list(files)
        numbers = numbers[:_BATCH]
        if numbers:
            state = replace(state, attempted=max(state.attempted, numbers[-1]))
        return state, [files[number] for number in numbers]

    def remove(self, state: State) -> None:
        """Remove the reports that the server has: those up to the state's `sequence`."""
        for number, file in self._files().items():
            if number <= state.sequence:
                file.unlink(missing_ok=True)

    def _files(self) -> dict[int, Path]:
        """By number, in order."""
        return {int(file.stem): file for file in sorted(self._folder.glob("[0-9]*.json"))}

    def _fit(self, attempted: int) -> None:
        files = self._files()
        while len(files) > 1 and sum(file.stat().st_size for file in files.values()) > (
            self._limit_bytes
        ):
            oldest = self._merge(files, attempted) or min(files)
            files.pop(oldest).unlink(missing_ok=True)

    def _merge(self, files: Mapping[int, Path], attempted: int) -> int | None:
        """Add the oldest counts that were not sent to the next ones; returns their number."""
        unsent = (_read(file) for number, file in files.items() if number > attempted)
        counts = [report for report in unsent if report["event"] == "counts"]
        for older, newer in pairwise(counts):
            requests = older["counts"]["requests"] + newer["counts"]["requests"]
            if older["running"] == newer["running"] and requests <= _MAX_REQUESTS:
                files[older["sequence"]].unlink()
                self._write(merged(older, newer))
                return int(older["sequence"])
        return None

    def _write(self, report: Mapping[str, Any]) -> None:
        target = self._folder / f"{report['sequence']:012d}.json"
        with replacing(target) as draft, synced(draft) as file:
            file.write(json.dumps(report).encode())
        with writing(target):
            sync_folder(self._folder)


def merged(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """The newer report of counts with those of the older one, of the same version."""
    latency_us = Quantiles.from_json(older["counts"]["latency_us"])
    latency_us.merge(Quantiles.from_json(newer["counts"]["latency_us"]))
    both = older["counts"], newer["counts"]
    totals = {name: sum(counts[name] for counts in both) for name in ("requests", "errors")}
    return {
        **newer,
        "bytes_received": older["bytes_received"] + newer["bytes_received"],
        "counts": {**totals, "latency_us": latency_us.to_json()},
    }


def _read(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(file.read_bytes())
    return report


def send(question: Mapping[str, Any]) -> dict[str, int]:
    """Send reports, and return as `sequence` up to which number none need be sent again."""
    import httpx

    reports = [_read(Path(file)) for file in question["reports"]]
    try:
        reply = httpx.post(
            f"{question['server'].rstrip('/')}/api/v1/edge/reports",
            json={"reports": reports},
            headers={"Authorization": f"Bearer {question['key']}"} if question["key"] else {},
            timeout=_SEND_S,
        )
        if reply.status_code in _NEVER:
            return {"sequence": reports[-1]["sequence"]}
        reply.raise_for_status()
        return {"sequence": int(reply.json()["sequence"])}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as problem:
        raise Unavailable(f"the server took no reports: {problem}") from None


if __name__ == "__main__":
    answer_parent(send)
