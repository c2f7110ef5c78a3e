"""Windows: one version on one UTC day, as profiles in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bascule.core import Unavailable, Untrusted, synced
from bascule.stats import ColumnProfile, Profile

RETENTION_DAYS = 400
"""How long windows are kept: a year and the days to compare its ends."""

_LEDGER = "ledger"
_MANIFEST = "manifest.json"
_FORMAT = 1
_TRIES = 5


class ProfileFile(msgspec.Struct, frozen=True, kw_only=True):
    """A window of one scribe, as the manifest names it.

    Attributes:
        file: Its path below `ledger/`.
        host: Where it was made: windows of several hosts merge.
        model: Whose answers.
        version: Of which version.
        day: As `2026-11-26`.
        rows: How many were answered.
        profiled_rows: How many of them are in the sketches.
        size_bytes: Of the file.
    """

    file: str
    host: str
    model: str
    version: str
    day: str
    rows: int
    profiled_rows: int
    size_bytes: int


@dataclass(slots=True)
class WindowProfile:
    """What one version was asked and answered on one UTC day.

    Attributes:
        model: The model that answered.
        version: Its version.
        day: As `2026-11-26`.
        rows: How many rows were answered. An estimate without bias where requests were sampled.
        profiled_rows: How many are in the sketches: above a rate, a uniform sample of each turn.
        inputs: Of what was asked, by the names of the baseline's columns.
        outputs: Of the answers.
    """

    model: str
    version: str
    day: str
    rows: int = 0
    profiled_rows: int = 0
    inputs: Profile = field(default_factory=Profile)
    outputs: Profile = field(default_factory=Profile)

    def merge(self, other: WindowProfile) -> None:
        """Take in a window of other rows of the same version and day."""
        self.rows += other.rows
        self.profiled_rows += other.profiled_rows
        for mine, its in ((self.inputs, other.inputs), (self.outputs, other.outputs)):
            mine.rows += its.rows
            # Column by column: an output that only some callers ask for is in some windows alone.
            for name, column in its.columns.items():
                mine.columns.setdefault(name, ColumnProfile(column.kind)).merge(column)


class _File(msgspec.Struct):
    rows: int
    profiled_rows: int
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    format: int = _FORMAT


class _Named(msgspec.Struct):
    """What of the manifest matters here."""

    profiles: list[ProfileFile] = []


def read_windows(home: Path, model: str) -> list[WindowProfile]:
    """The windows of a model, one for each version and UTC day, the oldest first.

    Today's is unfinished, and lacks what the scribe has not taken in yet: up to a minute.

    Args:
        home: The home.
        model: The model that answered.

    Raises:
        Untrusted: A file is damaged, or a newer release wrote it.
        Unavailable: The files change faster than they can be read.
    """
    for _ in range(_TRIES):
        try:
            found: dict[tuple[str, str], WindowProfile] = {}
            for one in _chosen(home, model):
                window = read_window(home, one)
                found.setdefault(
                    (one.day, one.version), WindowProfile(one.model, one.version, one.day)
                ).merge(window)
        except FileNotFoundError:
            continue  # the scribe has replaced it: look again
        return [found[key] for key in sorted(found)]
    raise Unavailable("the windows change faster than they can be read", hint="try again")


def read_window(home: Path, named: ProfileFile) -> WindowProfile:
    """One file. Raises `FileNotFoundError`, and `Untrusted` where it cannot be one."""
    path = home / _LEDGER / named.file
    try:
        value = msgspec.json.decode(path.read_bytes(), type=_File)
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{path} is no window of profiles: {error}") from None
    if value.format != _FORMAT:
        raise Untrusted(
            f"{path} has format {value.format}, and this bascule reads {_FORMAT}",
            hint="update bascule",
        )
    inputs, outputs = Profile.from_json(value.inputs), Profile.from_json(value.outputs)
    return WindowProfile(
        named.model, named.version, named.day, value.rows, value.profiled_rows, inputs, outputs
    )


def write_window(home: Path, window: WindowProfile, host: str, name: str) -> ProfileFile:
    """Write a window; on the disk when this returns but for the name in its folder."""
    place = f"{window.model}/{window.version}/{window.day}/{name}.profile"
    path = home / _LEDGER / place
    data = msgspec.json.encode(
        _File(window.rows, window.profiled_rows, window.inputs.to_json(), window.outputs.to_json()),
        enc_hook=float,  # numpy's own numbers
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with synced(path) as file:
        file.write(data)
    return ProfileFile(
        file=place, host=host, model=window.model, version=window.version, day=window.day,
        rows=window.rows, profiled_rows=window.profiled_rows, size_bytes=len(data),
    )  # fmt: skip


def _chosen(home: Path, model: str) -> Iterator[ProfileFile]:
    path = home / _LEDGER / _MANIFEST
    try:
        named = msgspec.json.decode(path.read_bytes(), type=_Named)
    except FileNotFoundError:
        return
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{path} is no manifest of a ledger: {error}") from None
    yield from (one for one in named.profiles if one.model == model)
