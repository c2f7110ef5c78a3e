"""What is kept of the training rows: enough to ask later whether other rows are among them.

Not the rows. Of each column its range, its share of missing values, and its values where they are
few; of the rows the smallest of their hashes. The k smallest of uniform hashes are a sample of the
distinct rows that anybody can join by hash alone (k minimum values: Bar-Yossef et al. 2002, Beyer
et al. 2007): a row whose hash is below the largest one kept was trained on if, and only if, its
hash is there. Up to `KEPT_HASHES` distinct rows that is an exact answer for all rows.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import is_missing
from bascule.core import Columns, Signature, Untrusted

TRAINING_KIND = "training"

_PIECE_ROWS = 65_536
"""Hashed at a time: what that takes is a little part of what many rows take themselves."""

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def flat_columns(columns: Columns, signature: Signature) -> dict[str, NDArray[Any]]:
    """One array a column, also of a matrix: by the names it was trained with, or c0, c1..."""
    made: dict[str, NDArray[Any]] = {}
    for field in signature.inputs:
        values = columns[field.name]
        if values.ndim == 1:
            made[field.name] = values
        elif values.ndim == 2:
            names = signature.columns if signature.is_matrix else ()
            prefix = "c" if signature.is_matrix else f"{field.name}."
            for index in range(values.shape[1]):
                known = index < len(names)
                made[names[index] if known else f"{prefix}{index}"] = values[:, index]
    return made


@dataclass(frozen=True, slots=True)
class Training:
    """What a `training` statement says."""

    rows: int
    distinct_rows: int
    columns: Mapping[str, Mapping[str, Any]]
    hashes: NDArray[np.uint64]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Training:
        """Read the body of a statement; raises `Untrusted` where it is none."""
        try:
            kept = np.frombuffer(base64.b64decode(body["row_hashes"], validate=True), "<u8")
            distinct = int(body["distinct_rows"])
            if not len(kept) and distinct:
                raise ValueError("it has none of their hashes")
            return cls(int(body["rows"]), distinct, dict(body["columns"]), kept)
        except (KeyError, TypeError, ValueError) as problem:
            raise Untrusted(f"the statement of the training rows is damaged: {problem}") from None

    def overlap(self, columns: Columns) -> tuple[float, int]:
        """The share of the rows that were trained on, and how many rows could be asked.

        Raises:
            Untrusted: None of the rows falls into the sample of hashes.
        """
        asked = row_hashes(columns)
        if len(self.hashes) < self.distinct_rows:
            asked = asked[asked <= self.hashes[-1]]
        if not len(asked):
            raise Untrusted("none of the rows falls into the sample of training rows that is kept")
        return float(np.isin(asked, self.hashes).mean()), len(asked)

    def is_inside(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Which rows hold nothing but values between, or among, those that were trained on."""
        count = len(next(iter(columns.values())))
        inside = np.ones(count, bool)
        for name, values in columns.items():
            told = self.columns.get(name)
            if told is None:
                continue
            missing = is_missing(values)
            fits = missing.copy() if told["missing"] else np.zeros(count, bool)
            there = ~missing
            if told.keys() >= {"min", "max"}:
                numbers = values[there].astype(np.float64)
                fits[there] = (numbers >= told["min"]) & (numbers <= told["max"])
            elif "values" in told:
                known = set(told["values"])
                fits[there] = [str(value) in known for value in values[there].tolist()]
            elif told.get("distinct"):
                fits[there] = True
            inside &= fits
        return inside


def row_hashes(columns: Columns) -> NDArray[np.uint64]:
    """64 bits a row, equal for equal rows of any numeric types."""
    count = len(next(iter(columns.values())))
    made = np.zeros(count, np.uint64)
    for start in range(0, count, _PIECE_ROWS):
        piece = slice(start, start + _PIECE_ROWS)
        made[piece] = _piece_hashes({name: values[piece] for name, values in columns.items()})
    return made


def _piece_hashes(columns: Columns) -> NDArray[np.uint64]:
    count = len(next(iter(columns.values())))
    made = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for name in sorted(columns):
            values = columns[name]
            for part in values.reshape(count, math.prod(values.shape[1:])).T:
                made = _mixed(made + _STEP + _bits(part))
    return made


def _bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    if values.dtype.kind == "O":
        texts = ["\0" if missing else str(value) for value, missing in
                 zip(values.tolist(), is_missing(values).tolist(), strict=True)]  # fmt: skip
        known = {text: _text_bits(text) for text in set(texts)}
        return np.array([known[text] for text in texts], np.uint64)
    numbers = values.astype(np.float64)
    numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, and no -0.0
    return _mixed(numbers.view(np.uint64))


def _text_bits(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
