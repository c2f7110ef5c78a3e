"""Asks an export in another Python, or in Node.js: JSON in, JSON out.

A tensor is its name, type, shape, and its bytes in base64; or its texts.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Field, MissingExtra, ModelFailed
from bascule.runtimes.program import Answers, Ask, Interface


def asked_by(command: Sequence[str], interface: Interface) -> Ask:
    """Asks a command, which answers with `outputs`, and in `us` the microseconds of single rows."""

    def ask(columns: Columns) -> Answers:
        rows = [_tensor(field.name, columns[field.name]) for field in interface.inputs]
        answer = json.loads(run_tool(command, json.dumps(rows)).rpartition("answer ")[2])
        outputs = zip(interface.outputs, answer["outputs"], strict=True)
        return {f.name: _array(tensor, f) for f, tensor in outputs}, np.array(answer["us"])

    return ask


def run_tool(command: Sequence[str], text: str = "") -> str:
    """What a command prints; its last line of errors is raised as `ModelFailed`."""
    try:
        ended = subprocess.run(command, input=text, capture_output=True, text=True)
    except OSError as problem:
        raise MissingExtra(
            f"{command[0]} cannot be started: {problem.strerror}", hint="name another with --tools"
        ) from None
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if "Error" in line] or [ended.stderr]
        raise ModelFailed(lines[-1].strip()[:500], hint="look at the tool that --tools names")
    return ended.stdout


def _tensor(name: str, values: NDArray[Any]) -> dict[str, Any]:
    if values.dtype.kind == "O":
        return {"name": name, "type": "string", "shape": values.shape, "texts": values.tolist()}
    data = base64.b64encode(values.tobytes()).decode()
    return {"name": name, "type": values.dtype.name, "shape": values.shape, "data": data}


def _array(tensor: Mapping[str, Any], field: Field) -> NDArray[Any]:
    if "texts" in tensor:
        return np.array(tensor["texts"], object).reshape(tensor["shape"])
    data = base64.b64decode(tensor["data"])
    return np.frombuffer(data, field.dtype.numpy).reshape(tensor["shape"])
