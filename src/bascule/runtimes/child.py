"""Asks an export in a process of another language, or another Python: one line of JSON each way.

A tensor is its name, type, shape, and its bytes in base64; or its texts.
"""

from __future__ import annotations

import base64
import json
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, DType, ModelFailed, Unavailable
from bascule.runtimes.program import ExportedProgram, Interface


def open_child(name: str, interface: Interface, command: Sequence[str]) -> ExportedProgram:
    """An export that a process runs, which ends with the program.

    Args:
        name: Of the runtime.
        interface: Of the export.
        command: Reads rows from its input, and prints `answer ` and the outputs, with `us`, the
            microseconds of single rows; or `answer ` and an `error`.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    asking, answering = process.stdin, process.stdout
    assert asking is not None
    assert answering is not None

    def call(columns: Columns) -> dict[str, Any]:
        rows = [_tensor(field.name, columns[field.name]) for field in interface.inputs]
        asking.write(json.dumps(rows) + "\n")
        asking.flush()
        for line in answering:
            if line.startswith("answer "):
                answer: dict[str, Any] = json.loads(line.removeprefix("answer "))
                if "error" in answer:
                    raise ModelFailed(answer["error"])
                return answer
        raise Unavailable(f"the process of {name} has ended")

    def ask(columns: Columns) -> Mapping[str, NDArray[Any]]:
        answer = call(columns)["outputs"]
        return {
            field.name: _array(tensor, field.dtype)
            for field, tensor in zip(interface.outputs, answer, strict=True)
        }

    program = ExportedProgram(name, interface, ask, lambda rows: np.array(call(rows)["us"]))
    weakref.finalize(program, _end, process)
    return program


def _end(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()


def _tensor(name: str, values: NDArray[Any]) -> dict[str, Any]:
    if values.dtype.kind == "O":
        return {"name": name, "type": "string", "shape": values.shape, "texts": values.tolist()}
    data = base64.b64encode(values.tobytes()).decode()
    return {"name": name, "type": values.dtype.name, "shape": values.shape, "data": data}


def _array(tensor: Mapping[str, Any], dtype: DType) -> NDArray[Any]:
    if "texts" in tensor:
        return np.array(tensor["texts"], object).reshape(tensor["shape"])
    return np.frombuffer(base64.b64decode(tensor["data"]), dtype.numpy).reshape(tensor["shape"])
