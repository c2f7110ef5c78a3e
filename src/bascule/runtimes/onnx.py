"""ONNX Runtime: the graph as it is, or in the ORT format.

The ORT format is larger, and is opened by a runtime that was built small, without the parser and
the optimiser of ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.core import Columns, Scratch, Unconvertible, first_line
from bascule.runtimes.program import ExportedProgram, Interface, Runtime, Source

_FILES = ("model.onnx", "model.ort")


def export_onnx(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the graph of the program."""
    entry = source.entry()
    (folder / "model.onnx").write_bytes(source.data(entry))
    return entry, {}


def export_ort(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the graph after the optimisations that hold on every CPU."""
    entry = source.entry()
    with Scratch("bascule-ort-") as scratch:
        (scratch / "model.onnx").write_bytes(source.data(entry))
        _session(scratch / "model.onnx", save_as=folder / "model.ort")
    return entry, {}


def open_graph(folder: Path, _tools: Path | None) -> ExportedProgram:
    """Either form, in ONNX Runtime."""
    interface = Interface.read(folder)
    (file,) = (folder / name for name in _FILES if (folder / name).exists())
    session = _session(file)
    names = [field.name for field in interface.outputs]

    def ask(columns: Columns) -> Mapping[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, columns), strict=True))

    return ExportedProgram(file.suffix[1:], interface, ask)


def _session(file: Path, save_as: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    disabled = []
    if save_as is not None:
        options.optimized_model_filepath = str(save_as)
        options.add_session_config_entry("session.save_model_format", "ORT")
        # It lays weights out for the processor that it runs on.
        disabled = ["NchwcTransformer"]
    try:
        return onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as problem:  # of the runtime's own kinds
        raise Unconvertible(f"ONNX Runtime cannot open it: {first_line(problem)}") from problem


ONNX_FORMAT = Runtime(export_onnx, open_graph)
ORT_FORMAT = Runtime(export_ort, open_graph)
