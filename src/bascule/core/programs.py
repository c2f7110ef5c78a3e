"""The narrow waist: what can answer for a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bascule.core.fields import Columns, Field


class Program(Protocol):
    """An executable form of a model.

    `run` takes exactly the columns named by `inputs`, in the dtypes named there, with one or more
    rows, and returns the outputs asked for (None: all) with as many rows. It keeps no state
    between calls, may be called from any thread, and may not change its arguments.

    `inputs` can differ from the signature's in dtype only: a program that computes in double
    precision takes FP64 where the signature says INT64, so that a caller can parse numbers
    straight into what the program reads.
    """

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[Field, ...]: ...

    @property
    def outputs(self) -> tuple[Field, ...]: ...

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns: ...
