"""The narrow waist: what can answer for a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from threading import Event
from typing import NamedTuple

from bascule.core.fields import Columns, Field


class PartCounts(NamedTuple):
    """What a part of a program has done."""

    runs: int = 0
    rows: int = 0
    failures: int = 0
    duration_ns: int = 0


class Program(ABC):
    """An executable form of a model.

    `run` takes exactly the columns named by `inputs`, in the dtypes named there, with one or more
    rows, and returns the outputs asked for (None: all) with as many rows. It keeps no state
    between calls, may be called from any thread, and may not change its arguments.

    `inputs` can differ from the signature's in dtype only: a program that computes in double
    precision takes FP64 where the signature says INT64, so that a caller can parse numbers
    straight into what the program reads.

    The rest has defaults, for a program that runs in this process and cannot be interrupted.
    """

    __slots__ = ()

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @abstractmethod
    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for, in that order."""

    def run_in_parts(
        self,
        columns: Columns,
        outputs: Sequence[str] | None,
        cancelled: Event,  # noqa: ARG002 -- one run is not looked into
    ) -> Generator[Columns, None, None]:
        """The answer as a sequence of parts: the outputs asked for, of any number of rows each.

        One part, the answer of `run`, unless a program has more to give. Called on a thread of its
        own, beside other calls. It is closed when its caller has gone; a program that waits or
        computes for long between two parts looks at `cancelled`, which is set before that.
        """
        yield self.run(columns, outputs)

    @property
    def most_parts(self) -> int | None:
        """How many answers in parts it gives at once; None for any number."""
        return None

    def complete(self, calls: Sequence[Columns]) -> Sequence[Columns]:
        """The columns of calls with what is found out for them; `run` does so otherwise."""
        return calls

    def new_part_counts(self) -> Mapping[str, PartCounts]:
        """By name of all its parts, what they did since the last call of this."""
        return {}

    @property
    def may_block(self) -> bool:
        """Whether a run waits for another process; that process' runs are bounded there."""
        return False

    @property
    def pid(self) -> int | None:
        """The process that holds the model; None for this one, or while there is none."""
        return None

    # The defaults do nothing.

    def bound_runs(self, timeout_s: float) -> None:  # noqa: B027
        """End runs that take longer, where `may_block`: the next ones, until another bound."""

    def interrupt(self) -> None:  # noqa: B027
        """End the runs under way as soon as the runtime can, with `TimedOut`. From any thread."""

    def close(self) -> None:  # noqa: B027
        """Give back what is held outside of this process' memory. It may block."""


class AroundProgram(Program):
    """Another program, where a subclass says nothing else; an answer is one part."""

    def __init__(self, program: Program) -> None:
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self._program = program

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        return self._program.run(columns, outputs)

    @property
    def most_parts(self) -> int | None:
        return self._program.most_parts

    def new_part_counts(self) -> Mapping[str, PartCounts]:
        return self._program.new_part_counts()

    @property
    def may_block(self) -> bool:
        return self._program.may_block

    @property
    def pid(self) -> int | None:
        return self._program.pid

    def bound_runs(self, timeout_s: float) -> None:
        self._program.bound_runs(timeout_s)

    def interrupt(self) -> None:
        self._program.interrupt()

    def close(self) -> None:
        self._program.close()
