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

from bascule.bundle import Bundle, disk
from bascule.bundle.statements import Parity
from bascule.core import Columns, Invalid, Program, Unconvertible, canonical_json, load_named
from bascule.packing.statements import ComparedRows, adversarial, jumps, parity
from bascule.runtimes.program import INTERFACE, ExportedProgram, Interface, Runtime, Source

RUNTIMES: dict[str, str] = {
    "onnx": "bascule.runtimes.onnx:ONNX_FORMAT",
    "ort": "bascule.runtimes.onnx:ORT_FORMAT",
    "litert": "bascule.runtimes.litert:LITERT",
    "executorch": "bascule.runtimes.executorch:EXECUTORCH",
    "c": "bascule.runtimes.c:C",
    "web": "bascule.runtimes.web:WEB",
}
"""Each is a `Runtime`."""

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
        return {
            "runtime": self.runtime,
            "digest": self.digest,
            "files": dict(self.files),
            "bytes": sum(self.files.values()),
            "parity": self.parity.to_json(),
            "latency_p50_us": self.latency_p50_us,
            "facts": dict(self.facts),
        }


def export(
    bundle: Bundle, runtime: str, folder: str | Path, *, tools: str | Path | None = None
) -> Exported:
    """Export the program of a bundle into a new folder. It is there whole, or not at all.

    Args:
        bundle: With a compiled program, or a network of PyTorch for LiteRT and ExecuTorch.
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
    source = Source(bundle, None if tools is None else Path(tools))
    with disk.drafting(folder) as draft:
        entry, facts = exporter.export(source, draft)
        interface = Interface(
            bundle.name, bundle.digest, entry.inputs, bundle.signature.outputs, entry.missing_text
        )
        (draft / INTERFACE).write_bytes(canonical_json(interface.to_json()))
        with_program = bundle.program(entry.name)
        rows = compared_rows(bundle, with_program)
        program = exporter.open(draft, source.tools)
        judged = _judged(program, with_program, rows, entry)
        if not judged.passed:
            raise Unconvertible(f"the export is refused: {judged.reason}", reason=judged.reason)
        real = adversarial.count(rows.rows) - len(rows.kinds)
        latency_us = program.latency_p50_us({n: c[:real] for n, c in rows.rows.items()})
        files = {
            str(file.relative_to(draft)): file.stat().st_size
            for file in sorted(draft.rglob("*"))
            if file.is_file()
        }
    return Exported(runtime, bundle.digest, files, judged, latency_us, facts)


def open_exported(
    folder: str | Path, runtime: str, *, tools: str | Path | None = None
) -> ExportedProgram:
    """An export, to be asked in its runtime on this machine; see `export`."""
    return _runtime(runtime).open(Path(folder), None if tools is None else Path(tools))


def compared_rows(bundle: Bundle, program: Program) -> ComparedRows:
    """Real rows, made-up ones and those beside jumps, and what the program answers to them."""
    held_out = bundle.test_data()
    real = _example(bundle) if held_out is None else parity.sample(held_out[0], _MOST_REAL_ROWS)
    inputs = bundle.signature.inputs
    rows = ComparedRows(real, parity.answers(program, real))
    huge = bundle.manifest.flavor not in _NETWORKS  # whose sums of huge numbers are rounding
    rows = rows.joined(program, adversarial.made_up(inputs, real, huge=huge))
    found = jumps.find(program, inputs, real)
    return rows if found is None else rows.joined(program, found.beside())


def _judged(
    program: ExportedProgram, of: Program, rows: ComparedRows, entry: disk.ProgramEntry
) -> Parity:
    """The parity; where the sum of many numbers decides, rounding may decide otherwise."""
    judged = _compared(program, rows, entry)
    if not judged.passed:
        settled = rows.without_ties(of, program, entry.tolerance, looks_at_all=False)
        judged = _compared(program, settled, entry)
        rows = settled
    words = judged.reason.replace("the original", f"the program {entry.name}")
    return replace(judged, probed=rows.probed, reason=words)


def _compared(program: ExportedProgram, rows: ComparedRows, entry: disk.ProgramEntry) -> Parity:
    return parity.compare(
        rows.expected,
        parity.answers(program, rows.rows),
        tolerance=entry.tolerance,
        program=program.name,
        precision=entry.precision,
        probes=len(rows.kinds),
    )


def _example(bundle: Bundle) -> Columns:
    body = disk.read_file(bundle.path, bundle.manifest, disk.EXAMPLE)
    return disk.columns_of(body, bundle.signature.inputs)


def _runtime(name: str) -> Runtime:
    if name not in RUNTIMES:
        raise Invalid(f"there is no runtime {name!r}", hint=f"one of {', '.join(RUNTIMES)}")
    runtime: Runtime = load_named(RUNTIMES[name])
    return runtime
