"""Exports a bundle's program for another runtime, and keeps only what answers as the program does.

The export is opened in its runtime on this machine, and both are asked the bundle's held-out rows
and rows that are made up to tell them apart: special numbers, neighbours of real rows, and both
sides of the places where answers jump.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk, take
from bascule.bundle.programs import MACHINE_CODE, ONNX, is_runnable, without_missing_text
from bascule.bundle.statements import Parity, apart
from bascule.core import Columns, DType, Invalid, Program, load_named
from bascule.packing.statements import ComparedRows, adversarial, cost, jumps, parity
from bascule.runtimes.tools import Ask, Exporter, bytes_of, refused

RUNTIMES: dict[str, str] = {
    "onnx": "bascule.runtimes.onnx:to_onnx",
    "ort": "bascule.runtimes.onnx:to_ort",
    "litert": "bascule.runtimes.networks:to_litert",
    "executorch": "bascule.runtimes.networks:to_executorch",
    "c": "bascule.runtimes.c:to_c",
    "web": "bascule.runtimes.web:to_web",
}
"""Each is a `tools.Exporter`."""

_MOST_REAL_ROWS = 2000
_NETWORKS = ("keras", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that answers as the program of the bundle does.

    Attributes:
        runtime: Its name.
        digest: Of the bundle.
        files: Bytes of each file.
        parity: With the program, on real and made-up rows.
        latency_p50_us: The median time of one row on this machine, on one thread.
        facts: What the runtime tells beside: bytes of machine code, for example.
    """

    runtime: str
    digest: str
    files: Mapping[str, int]
    parity: Parity
    latency_p50_us: float
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"bytes": sum(self.files.values()), "parity": self.parity.to_json()}


def export(
    bundle: Bundle, runtime: str, folder: str | Path, *, tools: str | Path | None = None
) -> Exported:
    """Export the program of a bundle into a new folder. It is there whole, or not at all.

    Args:
        bundle: With a compiled program; of a network of PyTorch for LiteRT and ExecuTorch.
        runtime: A name in `RUNTIMES`.
        folder: Where to; it may not exist.
        tools: What the runtime needs and is not here; see its module.

    Raises:
        Invalid: There is no such runtime.
        Conflict: The folder exists.
        Unconvertible: The runtime has no form of a step, or its answers are not the program's.
        MissingExtra: A tool is not installed.
        TimedOut: A tool did not end.
    """
    if runtime not in RUNTIMES:
        raise Invalid(f"there is no runtime {runtime!r}", hint=f"one of {', '.join(RUNTIMES)}")
    exporter: Exporter = load_named(RUNTIMES[runtime])
    entry = _entry_of(bundle, runtime)
    program = bundle.program(entry.name)  # first: it inspects the file
    with disk.drafting(folder) as draft:
        ask, facts = exporter(bundle, entry, draft, None if tools is None else Path(tools))
        (draft / "model.json").write_bytes(_interface(bundle, entry))
        exported = ExportedProgram(runtime, bundle, entry, ask)
        rows = _compared_rows(bundle, program)
        judged = _judged(exported, program, rows, entry)
        if not judged.passed:
            raise refused(f"the export is refused: {judged.reason}")
        latency_us = exported.row_us
        if latency_us is None:
            latency_us = cost.sample_latency(exported, rows.rows, 1)
        files = {file.name: file.stat().st_size for file in sorted(draft.iterdir())}
    median_us = float(np.median(latency_us))
    return Exported(runtime, bundle.digest, files, judged, median_us, facts)


class ExportedProgram(Program):
    """An export in its runtime.

    Attributes:
        row_us: Of the last call, where times are measured inside; else None.
    """

    def __init__(self, name: str, bundle: Bundle, entry: disk.ProgramEntry, ask: Ask) -> None:
        self.name, self.inputs, self.outputs = name, entry.inputs, bundle.signature.outputs
        self.row_us: NDArray[np.float64] | None = None
        self._ask, self._missing_text = ask, entry.missing_text
        self._texts = [f.name for f in self.inputs if f.nullable and f.dtype is DType.BYTES]

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        if self._texts and self._missing_text is not None:
            columns = without_missing_text(columns, self._texts, self._missing_text)
        answers, self.row_us = self._ask(columns)
        return {name: answers[name] for name in outputs or answers}


def _entry_of(bundle: Bundle, runtime: str) -> disk.ProgramEntry:
    """The program to export: in C the one whose sums of trees are exact, where there is one."""
    kinds = (MACHINE_CODE, ONNX) if runtime == "c" else (ONNX,)
    entries = [
        entry
        for kind in kinds
        for entry in bundle.manifest.programs
        if entry.kind == kind and is_runnable(kind)
    ]
    if not entries:
        raise refused(f"{bundle.name} has no compiled program", "its original answers requests")
    if entries[0].texts is not None or entries[0].features is not None:
        raise refused(f"{bundle.name} prepares rows in Python", "only bundles run with that")
    return entries[0]


def _interface(bundle: Bundle, entry: disk.ProgramEntry) -> bytes:
    """What an export reads and answers, for a file beside it."""
    facts = {
        "model": bundle.name, "digest": bundle.digest, "inputs": entry.inputs,
        "outputs": bundle.signature.outputs, "missing_text": entry.missing_text,
    }  # fmt: skip
    return msgspec.json.encode(facts)


def _compared_rows(bundle: Bundle, program: Program) -> ComparedRows:
    """Real rows, made-up ones and those beside jumps, and what the program answers to them."""
    inputs, held_out = bundle.signature.inputs, bundle.test_data()
    example = disk.columns_of(bytes_of(bundle, disk.EXAMPLE), inputs)
    real = parity.sample(example if held_out is None else held_out[0], _MOST_REAL_ROWS)
    huge = bundle.manifest.flavor not in _NETWORKS  # whose sums of huge numbers are rounding
    rows = ComparedRows(real, parity.answers(program, real))
    rows = rows.joined(program, adversarial.made_up(inputs, real, huge=huge))
    beside = jumps.find(program, inputs, real)
    return rows if beside is None else rows.joined(program, beside.beside())


def _judged(
    export: Program, program: Program, rows: ComparedRows, entry: disk.ProgramEntry
) -> Parity:
    """The parity, without made-up rows where the program's own answer hangs on a rounding."""
    answers, probes = parity.answers(export, rows.rows), len(rows.kinds)
    tolerance = entry.tolerance
    differs = apart(rows.expected, answers, tolerance=tolerance, probes=probes)
    differs[: len(differs) - probes] = False
    tied = adversarial.ties(program, rows.rows, rows.expected, differs, tolerance)
    judged = parity.compare(
        take(rows.expected, ~tied), take(answers, ~tied), tolerance=tolerance,
        program=export.name, precision=entry.precision, probes=probes - int(tied.sum()),
    )  # fmt: skip
    words = judged.reason.replace("the original", f"the program {entry.name}")
    return replace(judged, probed=rows.probed | {"tied by rounding": int(tied.sum())}, reason=words)
