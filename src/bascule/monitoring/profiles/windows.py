"""Windows: one version on one UTC day, as profiles in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from bascule.core import Unavailable, Untrusted, replacing, synced
from bascule.stats import WindowProfile

RETENTION_DAYS = 400
"""How long windows are kept: a year and the days to compare its ends."""

_LEDGER, _CHANNELS = "ledger", "channels"
_MANIFEST = "manifest.json"
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
            for one in (each for each in _named(home) if each.model == model):
                window = read_window(home, one)
                found.setdefault(
                    (one.day, one.version), WindowProfile(one.model, one.version, one.day)
                ).merge(window)
            for path in (home / _CHANNELS / model).glob("*/*.profile"):
                version, day = path.parent.name, path.stem
                found[day, version] = _read(path, model, version, day)
        except FileNotFoundError:
            continue  # the scribe has replaced it: look again
        return [found[key] for key in sorted(found)]
    raise Unavailable("the windows change faster than they can be read", hint="try again")


def read_window(home: Path, named: ProfileFile) -> WindowProfile:
    """One file. Raises `FileNotFoundError`, and `Untrusted` where it cannot be one."""
    return _read(home / _LEDGER / named.file, named.model, named.version, named.day)


def _read(path: Path, model: str, version: str, day: str) -> WindowProfile:
    try:
        value = msgspec.json.decode(path.read_bytes())
        return WindowProfile.from_json(value, model, version, day)
    except (msgspec.MsgspecError, Untrusted) as error:
        raise Untrusted(f"{path} is no window of profiles: {error}") from None


def write_window(home: Path, window: WindowProfile, host: str, name: str) -> ProfileFile:
    """Write a window; on the disk when this returns but for the name in its folder."""
    place = f"{window.model}/{window.version}/{window.day}/{name}.profile"
    path = home / _LEDGER / place
    data = msgspec.json.encode(window.to_json(), enc_hook=float)  # numpy's own numbers
    path.parent.mkdir(parents=True, exist_ok=True)
    with synced(path) as file:
        file.write(data)
    return ProfileFile(
        file=place, host=host, model=window.model, version=window.version, day=window.day,
        rows=window.rows, profiled_rows=window.profiled_rows, size_bytes=len(data),
    )  # fmt: skip


def write_channel_windows(home: Path, rows: Iterable[Sequence[Any]], first_day: str) -> None:
    """Write what devices were asked, and remove the windows before a day.

    Args:
        home: The home.
        rows: Version, such as `late/4`, channel, day, and what `WindowProfile.to_json` gives.
        first_day: The first that is kept.
    """
    for version, channel, day, value in rows:
        path = home / _CHANNELS / f"{version}@{channel}" / f"{day}.profile"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(msgspec.json.encode(value))
    for path in (home / _CHANNELS).glob("*/*/*.profile"):
        if path.stem < first_day:
            path.unlink(missing_ok=True)


def versions_since(home: Path, since: date) -> set[tuple[str, str]]:
    """The models and versions, `4@stable` on devices, with profiles of this UTC day or later."""
    known = {(each.model, each.version, each.day) for each in _named(home)}
    for path in (home / _CHANNELS).glob("*/*/*.profile"):
        known.add((path.parts[-3], path.parts[-2], path.stem))
    return {(model, version) for model, version, day in known if day >= since.isoformat()}


def _named(home: Path) -> Sequence[ProfileFile]:
    path = home / _LEDGER / _MANIFEST
    try:
        named = msgspec.json.decode(path.read_bytes(), type=_Named)
    except FileNotFoundError:
        return ()
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{path} is no manifest of a ledger: {error}") from None
    return named.profiles
