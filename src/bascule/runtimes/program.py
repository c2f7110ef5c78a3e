"""What runtimes have in common: what they export, and an export that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk
from bascule.bundle.programs import ONNX, runnable, without_missing_text
from bascule.core import Columns, DType, Field, ModelFailed, Program, Unconvertible, first_line

Answers = tuple[Mapping[str, NDArray[Any]], NDArray[np.float64] | None]
"""The outputs of rows, and the microseconds of single ones, where they are measured inside."""

Ask = Callable[[Columns], Answers]


@dataclass(frozen=True, slots=True)
class Interface:
    """What an export reads and answers, as a file beside it says.

    Attributes:
        model: Its name.
        digest: Of the bundle.
        inputs: With the types of the exported program.
        outputs: Likewise.
        missing_text: What stands for a missing text in an input, if texts may be missing.
    """

    model: str
    digest: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    missing_text: str | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """A line of the table.

    Attributes:
        export: Writes a program of a bundle into a folder; gives facts to tell of the export.
            Raises `Unconvertible` where the runtime has no form of a step, which it names, and
            `MissingExtra` where a tool is not installed.
        open: Asks an export, on this machine.
        kinds: Of programs that it takes, the best first.
    """

    export: Callable[[Bundle, disk.ProgramEntry, Path, Path | None], Mapping[str, Any]]
    open: Callable[[Path, Interface, Path | None], Ask]
    kinds: tuple[str, ...] = (ONNX,)


class ExportedProgram(Program):
    """An export in its runtime.

    Attributes:
        row_us: Of the last call, where times are measured inside; else None.
    """

    def __init__(self, name: str, interface: Interface, ask: Ask) -> None:
        self.name, self.inputs, self.outputs = name, interface.inputs, interface.outputs
        self.row_us: NDArray[np.float64] | None = None
        self._ask, self._missing_text = ask, interface.missing_text
        self._texts = [f.name for f in self.inputs if f.nullable and f.dtype is DType.BYTES]

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        if self._texts and self._missing_text is not None:
            columns = without_missing_text(columns, self._texts, self._missing_text)
        try:
            answers, self.row_us = self._ask(columns)
        except Exception as problem:  # of any runtime
            words = f"{self.name} failed: {first_line(problem)}"
            raise ModelFailed(words, hint="export the version again") from problem
        names = [field.name for field in self.outputs] if outputs is None else outputs
        return {name: answers[name] for name in names}


def refused(why: str, hint: str = "--runtime ort takes every compiled program") -> Unconvertible:
    """The error of a program that a runtime has no form of."""
    return Unconvertible(why, hint=hint)


def entry_of(bundle: Bundle, kinds: Sequence[str]) -> disk.ProgramEntry:
    """The program of the first of these kinds that runs here; raises `Unconvertible` if none."""
    entries = bundle.manifest.programs
    here = [entry for entry in entries if entry.name in runnable(entries) and entry.kind in kinds]
    if not here:
        raise refused(f"{bundle.name} has no compiled program", "its original answers requests")
    if here[0].texts is not None:
        raise refused(f"{bundle.name} prepares texts in Python", "only bundles run with that")
    return min(here, key=lambda entry: kinds.index(entry.kind))


def bytes_of(bundle: Bundle, file: str) -> bytes:
    """A file of the bundle, verified."""
    return disk.read_file(bundle.path, bundle.manifest, file)
