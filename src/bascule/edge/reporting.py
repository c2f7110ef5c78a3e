"""Reports that wait for the server: a file each, within a byte budget, sent until they are there.

A report that was sent once is never changed, because the server may have it: it is sent again as
it is. Of the others, when the budget is used up, sampled rows are dropped first, the oldest ones
before; then counts and profiles of one version are merged, so that a device that is offline for
months keeps all of them in few reports; then profiles are dropped, then counts, and events last.
The newest report says what was dropped. Order is by number: the device's clock may jump. A loss of
power during a merge loses counts, and counts nothing twice.
`python -m bascule.edge.reporting` sends some, in a process of its own, which has the client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bascule.core import Unavailable, answer_parent, replacing, sync_folder, synced, writing
from bascule.edge.slots import State
from bascule.stats import WindowProfile

_BATCH, _MAX_REQUESTS, _MAX_BYTES = 100, 10**8, 3 << 20
"""A server takes 4 MiB at once."""
_DROPPED_BYTES = 100  # for the counts of what was dropped
_SEND_S = 30.0
_NEVER = (400, 413, 422)
"""Statuses of reports that stay unacceptable: they are given up, or none would follow them."""


class Outbox:
    """The folder of the reports of one device."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = min(limit_bytes, _MAX_BYTES) - _DROPPED_BYTES

    def add(self, state: State, report: Mapping[str, Any]) -> int:
        """Put a report in, and return its number, which no other report ever had.

        Raises:
            Invalid: The disk is full, or fails.
        """
        number = 1 + max(state.sequence, state.attempted, *self._files(), 0)
        self._write({**report, "sequence": number})
        if dropped := self._fit(state.attempted):
            newest = _read(self._files()[number])
            self._write({**newest, "dropped": dropped + Counter(newest.get("dropped"))})
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

    def _fit(self, attempted: int) -> Counter[str]:
        """Drop and merge until the budget holds; returns how much of what was dropped."""
        dropped: Counter[str] = Counter()
        while self._is_over() and (
            self._without("sample", attempted, dropped)
            or self._merge(attempted)
            or self._without("profile", attempted, dropped)
            or self._remove_oldest(dropped)
        ):
            pass
        return dropped

    def _is_over(self) -> bool:
        return sum(file.stat().st_size for file in self._files().values()) > self._limit_bytes

    def _unsent(self, attempted: int) -> Iterator[dict[str, Any]]:
        """The oldest first; read one by one, because together they may be large."""
        return (_read(file) for number, file in self._files().items() if number > attempted)

    def _without(self, name: str, attempted: int, dropped: Counter[str]) -> bool:
        """Take the rows or the profile from the oldest report that has some."""
        for report in self._unsent(attempted):
            if (content := report.pop(name, None)) is not None:
                self._write(report)
                dropped[name] += len(content["rows"]) if name == "sample" else 1
                return True
        return False

    def _merge(self, attempted: int) -> bool:
        """Add the oldest counts to the next ones."""
        counts = (report for report in self._unsent(attempted) if report["event"] == "counts")
        for older, newer in pairwise(counts):
            requests = older["counts"]["requests"] + newer["counts"]["requests"]
            if older["running"] == newer["running"] and requests <= _MAX_REQUESTS:
                self._files()[older["sequence"]].unlink()
                self._write(merged(older, newer))
                return True
        return False

    def _remove_oldest(self, dropped: Counter[str]) -> bool:
        *older, _ = self._files().values()
        if not older:
            return False
        counts = (file for file in older if _read(file)["event"] == "counts")
        oldest = next(counts, older[0])
        dropped.update(_read(oldest).get("dropped"), reports=1)
        oldest.unlink()
        return True

    def _write(self, report: Mapping[str, Any]) -> None:
        target = self._folder / f"{report['sequence']:012d}.json"
        with replacing(target) as draft, synced(draft) as file:
            file.write(msgspec.json.encode(report, enc_hook=float))  # numpy's own numbers
        with writing(target):
            sync_folder(self._folder)


def merged(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """The newer report of counts with those of the older one, of the same version."""
    both = {
        **older, **newer, "bytes_received": older["bytes_received"] + newer["bytes_received"],
        "dropped": dict(Counter(older.get("dropped")) + Counter(newer.get("dropped"))),
        "counts": {name: older["counts"][name] + newer["counts"][name] for name in newer["counts"]},
    }  # fmt: skip
    if "profile" in older and "profile" in newer:
        window = WindowProfile.from_json(older["profile"])
        window.merge(WindowProfile.from_json(newer["profile"]))
        both["profile"] = window.to_json()
    return both


def _read(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return report


def send(question: Mapping[str, Any]) -> dict[str, int]:
    """Send reports, and return as `sequence` up to which number none need be sent again."""
    import httpx

    reports = [_read(Path(file)) for file in question["reports"]]
    try:
        reply = httpx.post(
            f"{question['server'].rstrip('/')}/api/v1/edge/reports",
            json={"reports": reports, "sent_at": datetime.now(UTC).isoformat()},
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
