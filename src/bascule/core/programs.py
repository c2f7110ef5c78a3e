"""The narrow waist: what can answer for a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bascule.core.fields import Columns, Field


class Program(Protocol):
    """An executable form of a model. Implementations derive from `ProgramBase`.

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

    @property
    def may_block(self) -> bool:
        """Whether a run waits for another process; that process' runs are bounded there."""

    @property
    def pid(self) -> int | None:
        """The process that holds the model; None for this one, or while there is none."""

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns: ...

    def bound_runs(self, timeout_s: float) -> None:
        """End runs that take longer, where `may_block`; a shorter bound that is there stays."""

    def interrupt(self) -> None:
        """End the runs under way as soon as the runtime can, with `TimedOut`. From any thread."""

    def close(self) -> None:
        """Give back what is held outside of this process' memory. It may block."""


class ProgramBase:
    """The parts of a `Program` that runs in this process and cannot be interrupted."""

    __slots__ = ()

    @property
    def may_block(self) -> bool:
        return False

    @property
    def pid(self) -> int | None:
        return None

    def bound_runs(self, timeout_s: float) -> None:
        """Runs here are bounded by whoever calls them."""

    def interrupt(self) -> None:
        """Runs go on to their end."""

    def close(self) -> None:
        """Nothing is held outside."""
