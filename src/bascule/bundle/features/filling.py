"""A program that completes its rows from a feature store before it runs.

The rules:
- a value that the caller gives is kept; what is missing is looked up;
- a feature that is unknown, or too old, is missing, as in the rows of a training join; a model
  that takes no missing value refuses such a row;
- a store that is away, or late, is `Unavailable`, and read again only when it has answered;
- the columns of a call stay as they are: another version of the model looks up its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.features.feast import AGE, Feast, Features
from bascule.bundle.tables import as_dtype, conform, for_program, is_missing
from bascule.core import (
    AroundProgram,
    BasculeError,
    Columns,
    DType,
    Invalid,
    Program,
    Signature,
    Unavailable,
    first_line,
)

_ROWS = 1_000
"""In one read of a store."""
_OPEN_S = 60.0


class FilledProgram(AroundProgram):
    """Another program, whose callers give keys, and may leave features out."""

    def __init__(
        self, program: Program, features: Features, signature: Signature, store: str,
        timeout_s: float,
    ) -> None:  # fmt: skip
        """Open the store, which may take `timeout_s` to answer for 1,000 rows.

        Raises:
            Invalid: Feast refuses its configuration.
            MissingExtra: Feast is not installed.
            Unavailable: It does not open in time.
        """
        super().__init__(program)
        self.inputs = features.fields(program.inputs)
        self._features, self._timeout_s = features, timeout_s
        self._fields = [field for field in features.fields(signature.inputs) if field.optional]
        self._needed = [
            field
            for field in signature.inputs
            if field.name in features.max_age_s and not field.nullable
        ]
        self._reading = Lock()
        self._late: Future[Any] | None = None
        self._store: Feast = self._within(_OPEN_S, Feast, store)
        # The first read takes a second, in which Feast imports what it needs. A store that is away
        # is no reason to refuse requests that have all features.
        unknown = {name: ["" if of is DType.BYTES else 0] for name, of in features.keys.items()}
        with suppress(Unavailable):
            self._within(max(10.0, timeout_s), self._store.read, features, unknown)

    def complete(self, calls: Sequence[Columns]) -> Sequence[Columns]:
        """See `Program.complete`: adds the features, and `AGE`."""
        names = [*self._features.keys, *(field.name for field in self._fields)]
        columns = {name: np.concatenate([call[name] for call in calls]) for name in names}
        sizes = [len(call[names[0]]) for call in calls]
        columns[AGE] = np.full(sum(sizes), np.nan)
        gaps = np.any([is_missing(columns[field.name]) for field in self._fields], axis=0)
        for start in range(0, np.count_nonzero(gaps), _ROWS):
            self._look_up(columns, np.flatnonzero(gaps)[start : start + _ROWS])
        ends = np.cumsum(sizes)
        return [
            call | {name: values[end - size : end] for name, values in columns.items()}
            for call, size, end in zip(calls, sizes, ends, strict=True)
        ]

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """See `Program.run`; raises `Invalid` for a row that lacks what the model needs."""
        if AGE not in columns:
            (columns,) = self.complete([columns])
        for field in self._needed:
            values = columns[field.name]
            wrong = missing = is_missing(values)
            if field.dtype is DType.BOOL or field.dtype.is_integer:
                wrong = as_dtype(values, field.dtype) != values
            if wrong.any():
                row = int(np.argmax(wrong))
                what = "missing" if missing[row] else f"{values[row]:g}"
                raise Invalid(
                    f"{field.name} is {what} in row {row}, and the model takes {field.dtype.value}",
                    hint=f"send {field.name}, where the feature store has none that is new enough",
                    field=field.name,
                )
        return self._program.run(for_program(columns, self._program.inputs), outputs)

    def _look_up(self, columns: Columns, rows: NDArray[np.intp]) -> None:
        """Write what is missing in these rows, and its age."""
        keys: Iterable[Any] = zip(
            *(columns[key][rows].tolist() for key in self._features.keys), strict=True
        )
        places: dict[Any, int] = {}
        which = [places.setdefault(key, len(places)) for key in keys]
        distinct = dict(zip(self._features.keys, zip(*places, strict=True), strict=True))
        known = self._within(self._timeout_s, self._store.read, self._features, distinct)
        now_s = time.time()
        for field in self._fields:
            values = np.empty(len(places), object)
            values[:], times_s = known[field.name]
            # Raises `Invalid` for a value that the model does not take.
            read = conform({field.name: values}, Signature((field,), ()))[field.name][which]
            ages_s = now_s - np.asarray(times_s, np.float64)[which]
            # As in Feast's join, a value as old as the limit is not too old.
            is_new = ages_s <= (self._features.max_age_s[field.name] or np.inf)
            is_used = is_missing(columns[field.name][rows]) & ~is_missing(read) & is_new
            columns[field.name][rows[is_used]] = read[is_used]
            columns[AGE][rows] = np.fmax(columns[AGE][rows], np.where(is_used, ages_s, np.nan))

    def _within(self, timeout_s: float, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What the store answers in time. A call that is late cannot be ended.

        Its thread does not hold up the end of the process, as that of an executor would.
        """
        answer: Future[Any] = Future()

        def work() -> None:
            try:
                answer.set_result(ask(*arguments))
            except BaseException as problem:
                answer.set_exception(problem)

        with self._reading:
            if self._late is not None and not self._late.done():
                raise Unavailable(
                    "the feature store still owes an answer", hint="retry later", retry_after_s=1
                )
            try:
                Thread(target=work, name="bascule-features", daemon=True).start()
                self._late = answer
                return answer.result(timeout_s)
            except BasculeError:
                raise
            except Exception as problem:  # code of a store may raise anything
                reason = first_line(problem)
                if self._late is answer and not answer.done():
                    reason = f"it gave no answer within {timeout_s:g} s"
                raise Unavailable(
                    f"the feature store is away: {reason}",
                    hint="send the features, or raise serving.feature_timeout_s",
                    retry_after_s=1,
                ) from problem
