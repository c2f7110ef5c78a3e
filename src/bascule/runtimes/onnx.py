"""ONNX Runtime: the graph as it is, or in the ORT format.

The ORT format is larger, and is opened by a runtime that was built small, without the parser and
the optimiser of ONNX.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bascule.bundle import Bundle
from bascule.bundle.disk import ProgramEntry
from bascule.runtimes.tools import Ask, bytes_of


def to_onnx(
    bundle: Bundle, entry: ProgramEntry, folder: Path, _tools: Path | None
) -> tuple[Ask, dict[str, Any]]:
    """Write the graph of the program."""
    (folder / "model.onnx").write_bytes(bytes_of(bundle, entry.file))
    return _asked(bundle, folder / "model.onnx"), {}


def to_ort(
    bundle: Bundle, entry: ProgramEntry, folder: Path, _tools: Path | None
) -> tuple[Ask, dict[str, Any]]:
    """Write the graph after the optimisations that hold on every processor."""
    import onnxruntime

    options = _on_one_thread()
    options.optimized_model_filepath = str(folder / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    # It would lay weights out for the processor of this machine.
    skipped = ["NchwcTransformer"]
    data = bytes_of(bundle, entry.file)
    onnxruntime.InferenceSession(data, options, disabled_optimizers=skipped)
    return _asked(bundle, folder / "model.ort"), {}


def _asked(bundle: Bundle, file: Path) -> Ask:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), _on_one_thread())
    names = [field.name for field in bundle.signature.outputs]
    return lambda columns: (dict(zip(names, session.run(names, columns), strict=True)), None)


def _on_one_thread() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options
