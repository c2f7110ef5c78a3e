"""Folding: adds rows to the windows of their version and day. The scribe's part."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import BasculeError, Columns
from bascule.monitoring.profiles.windows import (
    ProfileFile,
    read_window,
    write_window,
)
from bascule.stats import Profile, WindowProfile

log = logging.getLogger(__name__)

MAX_ROWS_PER_S = 2_000
"""Of a version: of more rows, a uniform sample of so many goes into the sketches."""

_Key = tuple[str, str, str]
Rows = NDArray[np.integer[Any]]


class Folding:
    """The windows that are being written. What is added counts once `write` is committed."""

    def __init__(self, home: Path, committed: Iterable[ProfileFile]) -> None:
        """Go on with the windows that the manifest names."""
        self._home = home
        self.host = socket.gethostname()
        self._named = {_key(one): one for one in committed if one.host == self.host}
        self._open: dict[_Key, WindowProfile] = {}
        self._changed: set[_Key] = set()
        self._random = np.random.default_rng()

    def add(
        self,
        key: _Key,
        times_ns: NDArray[np.int64],
        weights: NDArray[np.float64],
        columns_of: Callable[[Rows], tuple[Columns, Columns]],
        *,
        is_sample: bool = False,
    ) -> None:
        """Add the answered rows of one turn.

        Args:
            key: Model, version and day.
            times_ns: Of every row.
            weights: How many answered rows each stands for.
            columns_of: Inputs and outputs of some of the rows.
            is_sample: They are a bounded sample already, and all of them go into the sketches.
        """
        window = self._window(key)
        rows = len(times_ns)
        seconds = 1 + (int(times_ns.max()) - int(times_ns.min())) / 1e9
        chosen = np.arange(rows)
        if not is_sample and rows > (most := int(MAX_ROWS_PER_S * seconds)):
            chosen = np.sort(self._random.choice(rows, most, replace=False, shuffle=False))
        inputs, outputs = columns_of(chosen)
        window.rows += round(float(weights.sum()))
        window.profiled_rows += len(chosen)
        window.inputs.add(_of_known_kinds(inputs, window.inputs))
        window.outputs.add(_of_known_kinds(outputs, window.outputs))
        self._changed.add(key)

    def change(self, model: str, change: Callable[[WindowProfile], bool]) -> None:
        """Change the windows of a model; `change` says whether it has changed one."""
        for key in [key for key in {**self._named, **self._open} if key[0] == model]:
            if change(self._window(key)):
                self._changed.add(key)
            elif key not in self._changed:
                del self._open[key]

    def write(self, sequence: int) -> list[ProfileFile]:
        """Write what has changed; returns all files of this host, old and new."""
        for number, key in enumerate(sorted(self._changed)):
            name = f"{sequence:08d}-{number}-{self.host}"
            self._named[key] = write_window(self._home, self._open[key], self.host, name)
        # A window that no row comes for is read again if one does.
        self._open = {key: self._open[key] for key in self._changed}
        self._changed = set()
        return list(self._named.values())

    def forget(self, kept: Sequence[ProfileFile]) -> None:
        """Only these are named from now on."""
        self._named = {_key(one): one for one in kept if one.host == self.host}

    def _window(self, key: _Key) -> WindowProfile:
        window = self._open.get(key)
        if window is None:
            window = self._open[key] = self._committed(key)
        return window

    def _committed(self, key: _Key) -> WindowProfile:
        """The window as it is on the disk; a new one where it is damaged, so that days go on."""
        named = self._named.get(key)
        if named is not None:
            try:
                return read_window(self._home, named)
            except (OSError, BasculeError) as error:
                log.warning(
                    "%d rows are no longer in the profiles of %s/%s on %s: %s",
                    named.rows, *key, error,
                )  # fmt: skip
        return WindowProfile(*key)


def _of_known_kinds(columns: Columns, profile: Profile) -> Columns:
    """Without numbers for a column of texts, and the reverse: no sketch takes both."""
    return {
        name: values
        for name, values in columns.items()
        if name not in profile.columns
        or (profile.columns[name].kind == "text") is (values.dtype == object)
    }


def _key(one: ProfileFile) -> _Key:
    return one.model, one.version, one.day
