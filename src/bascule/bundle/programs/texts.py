"""Runs a graph that counts words: texts prepared, and a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.texts import STEPS, Texts
from bascule.core import AroundProgram, Columns, ModelFailed, Program

MAX_CHARACTERS = 1 << 20
"""Rows times the longest text of one run: words are cut into a matrix as wide as the longest."""


class TextProgram(AroundProgram):
    """A program whose graph is given prepared texts, a bounded number of rows at a time."""

    def __init__(self, program: Program, texts: Texts) -> None:
        super().__init__(program)
        self._texts = texts

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        fed = dict(columns)
        try:
            for one in self._texts.prepared:
                fed[one.name] = _prepared(columns[one.column], one.steps)
        except TypeError:  # None stands for a missing text, of which there are no words to count
            raise ModelFailed(f"program {self.name} failed: a text is missing") from None
        longest = [fed[one.name] for one in self._texts.prepared]
        slices = list(slices_of(longest, self._texts.rows_at_once))
        if len(slices) == 1:
            return self._program.run(fed, outputs)
        pieces = [
            self._program.run({name: values[piece] for name, values in fed.items()}, outputs)
            for piece in slices
        ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _prepared(texts: NDArray[Any], steps: Sequence[str]) -> NDArray[Any]:
    made = np.empty(len(texts), object)
    listed = texts.tolist()
    for step in steps:
        change = STEPS[step]
        listed = [change(text) for text in listed]
    made[:] = listed
    return made


def slices_of(texts: Sequence[NDArray[Any]], rows_at_once: int) -> Iterator[slice]:
    """Neighbouring rows that may be run together: few enough, and none of them too long.

    Args:
        texts: Columns of texts, of one length.
        rows_at_once: The most rows of a slice.
    """
    rows = len(texts[0])
    lengths = np.zeros(rows, np.int64)
    for column in texts:
        lengths = np.maximum(lengths, [len(text) for text in column.tolist()])
    if rows <= rows_at_once and rows * int(lengths.max(initial=0)) <= MAX_CHARACTERS:
        yield slice(0, rows)
        return
    start = longest = 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        taken = row - start
        if taken and (taken == rows_at_once or (taken + 1) * longest > MAX_CHARACTERS):
            yield slice(start, row)
            start, longest = row, length
    yield slice(start, rows)
