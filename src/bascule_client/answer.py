"""What a model answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule_client.fields import Columns


class Answer(Mapping[str, NDArray[Any]]):
    """The outputs by name, with the rows along the first axis.

    `np.asarray(answer)` is the first output: the labels of a classifier, the numbers of a
    regressor.
    """

    __slots__ = ("_outputs", "program", "version")

    def __init__(self, outputs: Columns, program: str = "", version: str = "") -> None:
        self._outputs = dict(outputs)
        self.program = program
        """The name of the program that gave it."""
        self.version = version
        """The version that a server answered with; empty where a bundle in the hand did."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        first = next(iter(self._outputs.values()))
        return np.array(first, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name}: {value.dtype}{list(value.shape)}" for name, value in self._outputs.items()
        )
        return f"Answer({parts})"
