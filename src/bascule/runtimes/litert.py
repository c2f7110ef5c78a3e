"""LiteRT (TensorFlow Lite): networks of PyTorch, converted by litert-torch; see `networks`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.core import Columns, MissingExtra
from bascule.runtimes.networks import convert
from bascule.runtimes.program import ExportedProgram, Interface, Runtime, Source

_FILE = "model.tflite"


def export(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the network."""
    return convert(source, "litert", folder / _FILE), {}


def open_tflite(folder: Path, _tools: Path | None) -> ExportedProgram:
    """The network in LiteRT's interpreter, one row at a time."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtra("LiteRT is not installed", hint="pip install ai-edge-litert") from None
    interface = Interface.read(folder)
    runner = Interpreter(str(folder / _FILE), num_threads=1).get_signature_runner()
    inputs = [field.name for field in interface.inputs]

    def row(columns: Columns, place: int) -> list[NDArray[Any]]:
        answers = runner(
            **{f"args_{i}": columns[name][place : place + 1] for i, name in enumerate(inputs)}
        )
        return [answers[f"output_{i}"] for i in range(len(interface.outputs))]

    def ask(columns: Columns) -> Mapping[str, NDArray[Any]]:
        count = len(columns[inputs[0]])
        rows = [row(columns, place) for place in range(count)]
        outputs = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        return dict(zip((field.name for field in interface.outputs), outputs, strict=True))

    return ExportedProgram("litert", interface, ask)


LITERT = Runtime(export, open_tflite)
