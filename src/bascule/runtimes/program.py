"""What an exporter is handed, and an export that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk, for_program
from bascule.bundle.programs import ONNX, runnable, without_missing_text
from bascule.core import Columns, DType, Field, ModelFailed, Program, Unconvertible, first_line
from bascule.packing.statements import cost

INTERFACE = "model.json"
Ask = Callable[[Columns], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Source:
    """A bundle, what of it is exported, and with which tools.

    Attributes:
        bundle: Where it comes from.
        tools: Where the tools of the runtime are, if it needs some: see its module.
    """

    bundle: Bundle
    tools: Path | None = None

    def entry(self, *kinds: str) -> disk.ProgramEntry:
        """The first program of these kinds, in their order, that runs here.

        Raises:
            Unconvertible: The bundle has none, or its texts are prepared in Python.
        """
        entries = self.bundle.manifest.programs
        names = runnable(entries)
        for kind in kinds or (ONNX,):
            for entry in entries:
                if entry.kind == kind and entry.name in names:
                    if entry.texts is not None:
                        raise Unconvertible(
                            f"{self.bundle.name} prepares its texts in Python, and no other "
                            "runtime does"
                        )
                    return entry
        raise Unconvertible(
            f"{self.bundle.name} has no compiled program; its original answers requests"
        )

    def data(self, entry: disk.ProgramEntry) -> bytes:
        """The verified bytes of a program."""
        return disk.read_file(self.bundle.path, self.bundle.manifest, entry.file)


@dataclass(frozen=True, slots=True)
class Interface:
    """What an export reads and answers; `model.json` beside it.

    Attributes:
        model: Its name.
        digest: Of the bundle.
        inputs: With the types of the exported program.
        outputs: With the types of the exported program.
        missing_text: What stands for a missing text in an input, if texts may be missing.
    """

    model: str
    digest: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    missing_text: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "digest": self.digest,
            "inputs": [field.to_json() for field in self.inputs],
            "outputs": [field.to_json() for field in self.outputs],
            "missing_text": self.missing_text,
        }

    @classmethod
    def read(cls, folder: Path) -> Interface:
        """That of an export; raises `Untrusted` where the file is something else."""
        what = "the interface of an export"
        return disk.shaped(
            disk.parse((folder / INTERFACE).read_bytes(), INTERFACE, what=what),
            cls, INTERFACE, what=what,
        )  # fmt: skip


class ExportedProgram(Program):
    """An export in its runtime, on this machine.

    Args:
        name: Of the runtime.
        interface: What it reads and answers.
        ask: Runs rows; may raise what its library raises.
        time_rows: Microseconds of single rows, measured where they are run; else calls are timed.
    """

    def __init__(
        self,
        name: str,
        interface: Interface,
        ask: Ask,
        time_rows: Callable[[Columns], NDArray[np.float64]] | None = None,
    ) -> None:
        self.name, self.inputs, self.outputs = name, interface.inputs, interface.outputs
        self._missing_text = interface.missing_text
        self._texts = [f.name for f in self.inputs if f.nullable and f.dtype is DType.BYTES]
        self._ask, self._time_rows = ask, time_rows

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        names = [field.name for field in self.outputs] if outputs is None else outputs
        try:
            answers = self._ask(self._filled(columns))
        except Exception as problem:  # of any runtime
            raise ModelFailed(f"{self.name} failed: {first_line(problem)}") from problem
        return {name: answers[name] for name in names}

    def latency_p50_us(self, columns: Columns) -> float:
        """The median time of one row."""
        if self._time_rows is None:
            return float(np.median(cost.sample_latency(self, columns, 1)))
        return float(np.median(self._time_rows(self._filled(for_program(columns, self.inputs)))))

    def _filled(self, columns: Columns) -> Columns:
        if self._missing_text is None or not self._texts:
            return columns
        return without_missing_text(columns, self._texts, self._missing_text)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A line of the table.

    Attributes:
        export: Writes the files into a folder; gives the program that was exported, and facts to
            tell of the export. Raises `Unconvertible` where the runtime has no form of a step,
            which it names, and `MissingExtra` where a tool is not installed.
        open: An export, to be asked on this machine, with the tools that it needs.
    """

    export: Callable[[Source, Path], tuple[disk.ProgramEntry, Mapping[str, Any]]]
    open: Callable[[Path, Path | None], ExportedProgram]
