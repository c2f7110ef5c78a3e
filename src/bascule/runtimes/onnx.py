"""ONNX Runtime: the graph as it is, or in the ORT format.

The ORT format is larger, and is opened by a runtime that was built small, without the parser and
the optimiser of ONNX.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bascule.bundle import Bundle
from bascule.bundle.disk import ProgramEntry
from bascule.core import Columns
from bascule.runtimes.program import Answers, Ask, Interface, Runtime, bytes_of


def export(
    bundle: Bundle, entry: ProgramEntry, folder: Path, _tools: Path | None, *, as_ort: bool
) -> dict[str, Any]:
    """Write the graph of the program; as ORT, after the optimisations that hold on every CPU."""
    data = bytes_of(bundle, entry.file)
    if as_ort:
        _session(data, save_as=folder / "model.ort")
    else:
        (folder / "model.onnx").write_bytes(data)
    return {}


def open_graph(folder: Path, interface: Interface, _tools: Path | None) -> Ask:
    """Either form, in ONNX Runtime on one thread."""
    (file,) = (path for path in folder.iterdir() if path.suffix in (".onnx", ".ort"))
    session = _session(file.read_bytes())
    names = [field.name for field in interface.outputs]

    def ask(columns: Columns) -> Answers:
        return dict(zip(names, session.run(names, columns), strict=True)), None

    return ask


def _session(data: bytes, save_as: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if save_as is None:
        return onnxruntime.InferenceSession(data, options)
    options.optimized_model_filepath = str(save_as)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    # It would lay weights out for the processor of this machine.
    return onnxruntime.InferenceSession(data, options, disabled_optimizers=["NchwcTransformer"])


ONNX_FORMAT = Runtime(partial(export, as_ort=False), open_graph)
ORT_FORMAT = Runtime(partial(export, as_ort=True), open_graph)
