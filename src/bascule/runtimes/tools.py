"""What runtimes share: tools that are no part of Bascule, and exports asked in them.

A tool reads columns as JSON: their name, type, shape, and their bytes in base64 or their texts. It
answers `outputs`, bytes or texts alone, and `us`, the microseconds of single rows.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, disk
from bascule.core import Columns, Field, MissingExtra, TimedOut, Unconvertible

Answers = tuple[Mapping[str, NDArray[Any]], NDArray[np.float64] | None]
"""The outputs of rows, and the microseconds of single ones, where they are measured inside."""

Ask = Callable[[Columns], Answers]

Exporter = Callable[[Bundle, disk.ProgramEntry, Path, Path | None], tuple[Ask, Mapping[str, Any]]]
"""Writes a program of a bundle into a folder, with the tools that the caller names.

Gives what asks the export on this machine, and facts to tell of it. Raises `Unconvertible` where
the runtime has no form of a step, which it names, and as `run_tool` does.
"""

TOOL_TIMEOUT_S = 900.0
"""Converters take minutes for large networks."""


def asked_by(command: Sequence[str], bundle: Bundle, entry: disk.ProgramEntry, hint: str) -> Ask:
    """Asks a command; see `run_tool`."""

    def ask(columns: Columns) -> Answers:
        rows = [_column(field.name, columns[field.name]) for field in entry.inputs]
        printed = run_tool(command, hint, json.dumps(rows))
        answer, count = json.loads(printed.rpartition("answer ")[2]), rows[0]["shape"][0]
        outputs = zip(bundle.signature.outputs, answer["outputs"], strict=True)
        return {f.name: _array(values, f, count) for f, values in outputs}, np.array(answer["us"])

    return ask


def run_tool(command: Sequence[str], hint: str, text: str = "") -> str:
    """What a command prints.

    Raises:
        MissingExtra: It is not installed, or a module that it needs is not; with the hint.
        TimedOut: It ran for too long, and was killed with the processes that it had started.
        Unconvertible: It failed; the message has the last line about an error.
    """
    tool = os.path.basename(command[0])
    try:
        with subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, process_group=0
        ) as process:
            try:
                printed, errors = process.communicate(text, TOOL_TIMEOUT_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except OSError as problem:
        words = f"{command[0]} cannot be started: {problem.strerror}"
        raise MissingExtra(words, hint=hint) from None
    except subprocess.TimeoutExpired:
        words = f"{tool} took over {TOOL_TIMEOUT_S:g} s, and was ended"
        raise TimedOut(words, hint="export a smaller version, or on a faster machine") from None
    if process.returncode:
        lines = [line for line in errors.splitlines() if "rror" in line] or [errors]
        words = lines[-1].strip()[:500]
        if words.startswith("ModuleNotFoundError"):
            raise MissingExtra(f"{tool} lacks a module: {words}", hint=hint)
        raise refused(f"{tool} fails: {words}")
    return printed


def _column(name: str, values: NDArray[Any]) -> dict[str, Any]:
    if values.dtype.kind == "O":
        return {"name": name, "type": "string", "shape": values.shape, "texts": values.tolist()}
    data = base64.b64encode(values.tobytes()).decode()
    return {"name": name, "type": values.dtype.name, "shape": values.shape, "data": data}


def _array(values: str | list[str], field: Field, rows: int) -> NDArray[Any]:
    if isinstance(values, list):
        return np.array(values, object).reshape(rows, *field.shape)
    whole = np.frombuffer(base64.b64decode(values), field.dtype.numpy)
    return whole.reshape(rows, *field.shape)


def refused(why: str, hint: str = "--runtime ort takes every compiled program") -> Unconvertible:
    """The error of a program that a runtime has no form of."""
    return Unconvertible(why, hint=hint)


def bytes_of(bundle: Bundle, file: str) -> bytes:
    """A file of the bundle, verified."""
    return disk.read_file(bundle.path, bundle.manifest, file)
