"""A program that completes its rows from a feature store before it runs.

The rules:
- a value that the caller gives is kept; what is missing or left out is looked up;
- a feature that is unknown, or too old, is missing, as in the rows of a training join; a model
  that takes no missing value refuses such a row;
- a store that is away, or late, is `Unavailable`, and asked again only when it has answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.features.port import Features, FeatureStore, open_store
from bascule.bundle.tables import conform, for_program, is_missing
from bascule.core import (
    AroundProgram,
    BasculeError,
    Columns,
    DType,
    Field,
    Invalid,
    Program,
    Signature,
    Unavailable,
    first_line,
)

AGE = "feature_age_s"
"""The column that a call gets: the age of the oldest feature that was looked up for a row."""
_KEYS = 1_000
"""In one question to a store."""
_OPEN_S = 120.0


class FilledProgram(AroundProgram):
    """Another program, whose callers give keys, and may leave features out."""

    def __init__(
        self, program: Program, features: Features, signature: Signature, store: str,
        timeout_s: float,
    ) -> None:  # fmt: skip
        """Open the store, and read it once; raises `Invalid`, `MissingExtra`, `Unavailable`.

        Args:
            program: The model's own.
            features: What is looked up.
            signature: Of the model.
            store: See `open_store`.
            timeout_s: How long the store may take to answer for 1,000 keys.
        """
        super().__init__(program)
        self.inputs = features.fields(program.inputs)
        self._features, self._timeout_s = features, timeout_s
        self._fields = [one for one in features.fields(signature.inputs) if one.optional]
        self._needed = {one.name for one in signature.inputs if not one.nullable}
        self._late: Future[Any] | None = None
        self._thread = ThreadPoolExecutor(1, "bascule-features")
        self._store: FeatureStore = self._within(_OPEN_S, open_store, store)
        # The first read takes a second, in which Feast imports what it needs.
        unknown = {name: ["" if of is DType.BYTES else 0] for name, of in features.keys.items()}
        self._within(_OPEN_S, self._store.read, features, unknown)

    def complete(self, calls: Sequence[Columns]) -> None:
        """See `Program.complete`: adds the features, and `AGE`, to the columns of calls."""
        calls = [one for one in calls if AGE not in one]
        if not calls:
            return
        sizes = [len(next(iter(one.values()))) for one in calls]
        pairs = [*zip(calls, sizes, strict=True)]
        sent = {
            one.name: np.concatenate(
                [call[one.name] if one.name in call else _absent(one, rows) for call, rows in pairs]
            )
            for one in self._fields
        }
        ages_s = np.full(sum(sizes), np.nan)
        rows = np.flatnonzero(np.any([is_missing(one) for one in sent.values()], axis=0))
        keys = [np.concatenate([one[key] for one in calls])[rows] for key in self._features.keys]
        asked = [*zip(*(one.tolist() for one in keys), strict=True)]
        places = {key: place for place, key in enumerate(dict.fromkeys(asked))}
        found = self._read([*places]) if places else {}
        which = [places[key] for key in asked]
        now_s = time.time()
        for field in self._fields if places else ():
            name, limit_s = field.name, self._features.max_age_s[field.name]
            values, times_s = found[name]
            sent[name][rows], own_s = filled(
                sent[name][rows], _conformed(values, field)[which],
                now_s - np.asarray(times_s, np.float64)[which], limit_s or np.inf,
            )  # fmt: skip
            ages_s[rows] = np.fmax(ages_s[rows], own_s)
        start = 0
        for call, size in pairs:
            part = slice(start, start := start + size)
            call |= {name: values[part] for name, values in sent.items()} | {AGE: ages_s[part]}

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """See `Program.run`; raises `Invalid` for a row that lacks what the model needs."""
        self.complete([columns])
        for name in self._needed.intersection(self._features.max_age_s):
            if (missing := is_missing(columns[name])).any():
                raise Invalid(
                    f"{name} is missing in row {int(np.argmax(missing))}: the feature store has "
                    "none for its keys, or one that is too old",
                    hint=f"send {name}: the model takes no missing value there",
                    field=name,
                )
        return self._program.run(for_program(columns, self._program.inputs), outputs)

    def _read(self, keys: Sequence[tuple[Any, ...]]) -> dict[str, tuple[list[Any], list[float]]]:
        found: dict[str, tuple[list[Any], list[float]]]
        found = {name: ([], []) for name in self._features.max_age_s}
        for start in range(0, len(keys), _KEYS):
            columns = zip(*keys[start : start + _KEYS], strict=True)
            named = dict(zip(self._features.keys, columns, strict=True))
            read = self._within(self._timeout_s, self._store.read, self._features, named)
            for name, (values, times_s) in read.items():
                found[name][0].extend(values)
                found[name][1].extend(times_s)
        return found

    def _within(self, timeout_s: float, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What the store answers in time; its own calls cannot be ended."""
        if self._late is not None and not self._late.done():
            raise Unavailable(
                "the feature store still owes an answer", hint="retry later", retry_after_s=1
            )
        asked = self._thread.submit(ask, *arguments)
        try:
            return asked.result(timeout_s)
        except BasculeError:
            raise
        except Exception as problem:  # code of a store may raise anything
            self._late = asked
            late = f"it gave no answer within {timeout_s:g} s"
            raise Unavailable(
                f"the feature store is away: {first_line(problem) if asked.done() else late}",
                hint="send the features, or raise serving.feature_timeout_s",
                retry_after_s=1,
            ) from problem


def filled(
    sent: NDArray[Any], known: NDArray[Any], age_s: NDArray[np.float64], max_age_s: float
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Values that were sent, known ones where none was, and the ages of these; NaN for others.

    A value as old as `max_age_s` is not too old, as in Feast's join. All have the shape (rows,).
    """
    is_used = is_missing(sent) & ~is_missing(known) & (age_s <= max_age_s)
    return np.where(is_used, known, sent), np.where(is_used, age_s, np.nan)


def _absent(field: Field, rows: int) -> NDArray[Any]:
    return np.full(rows, None if field.dtype is DType.BYTES else np.nan, field.dtype.numpy)


def _conformed(values: Sequence[Any], field: Field) -> NDArray[Any]:
    """Raises `Invalid` for a value that the model does not take."""
    listed = np.empty(len(values), object)
    listed[:] = values
    return conform({field.name: listed}, Signature((field,), ()))[field.name]
