"""Exports a bundle's program for another runtime, and keeps only what answers as the program does.

The export is opened in its runtime on this machine, and both are asked the bundle's held-out rows
and rows that are made up to tell them apart: special numbers, neighbours of real rows, and both
sides of the places where answers jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bascule.bundle import Bundle, disk, take
from bascule.bundle.statements import Parity, apart
from bascule.core import Invalid, Program, load_named
from bascule.packing.statements import ComparedRows, adversarial, cost, jumps, parity
from bascule.runtimes.program import (
    ExportedProgram,
    Interface,
    Runtime,
    bytes_of,
    entry_of,
    refused,
)

RUNTIMES: dict[str, str] = {
    "onnx": "bascule.runtimes.onnx:ONNX_FORMAT",
    "ort": "bascule.runtimes.onnx:ORT_FORMAT",
    "litert": "bascule.runtimes.litert:LITERT",
    "executorch": "bascule.runtimes.executorch:EXECUTORCH",
    "c": "bascule.runtimes.c:C",
    "web": "bascule.runtimes.web:WEB",
}
"""Each is a `Runtime`."""

_INTERFACE = "model.json"
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
    """
    exporter = _runtime(runtime)
    entry = entry_of(bundle, exporter.kinds)
    program = bundle.program(entry.name)  # first: it inspects the file
    interface = Interface(
        bundle.name, bundle.digest, entry.inputs, bundle.signature.outputs, entry.missing_text
    )
    with disk.drafting(folder) as draft:
        facts = exporter.export(bundle, entry, draft, None if tools is None else Path(tools))
        (draft / _INTERFACE).write_bytes(msgspec.json.encode(interface))
        exported = open_exported(draft, runtime, tools=tools)
        rows = _compared_rows(bundle, program)
        judged = _judged(exported, program, rows, entry)
        if not judged.passed:
            raise refused(f"the export is refused: {judged.reason}")
        latency_us = _latency_p50_us(exported, rows)
        files = {file.name: file.stat().st_size for file in sorted(draft.iterdir())}
    return Exported(runtime, bundle.digest, files, judged, latency_us, facts)


def open_exported(
    folder: str | Path, runtime: str, *, tools: str | Path | None = None
) -> ExportedProgram:
    """An export, to be asked in its runtime on this machine; see `export`."""
    folder, what = Path(folder), "the interface of an export"
    value = disk.parse((folder / _INTERFACE).read_bytes(), _INTERFACE, what=what)
    interface = disk.shaped(value, Interface, _INTERFACE, what=what)
    ask = _runtime(runtime).open(folder, interface, None if tools is None else Path(tools))
    return ExportedProgram(runtime, interface, ask)


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


def _latency_p50_us(program: ExportedProgram, rows: ComparedRows) -> float:
    real = take(rows.rows, slice(adversarial.count(rows.rows) - len(rows.kinds)))
    parity.answers(program, real)
    times_us = program.row_us
    return float(np.median(cost.sample_latency(program, real, 1) if times_us is None else times_us))


def _runtime(name: str) -> Runtime:
    if name not in RUNTIMES:
        raise Invalid(f"there is no runtime {name!r}", hint=f"one of {', '.join(RUNTIMES)}")
    runtime: Runtime = load_named(RUNTIMES[name])
    return runtime
