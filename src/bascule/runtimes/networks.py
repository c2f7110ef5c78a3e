"""From a network of PyTorch to the file of another runtime, by converters of their own Python.

The converters need versions of PyTorch of their own, and gigabytes: `tools` is the Python of an
environment that has them (`pip install litert-torch executorch`), or else this one. The network is
exported for one row, as a device asks.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import disk
from bascule.core import MissingExtra, Scratch, Unconvertible
from bascule.packing.flavors import module_from
from bascule.runtimes.program import Source

_FORMAT = "torch-aten"


def script(tools: Path | None, *arguments: str) -> list[str]:
    """The command that runs `torch_tools` with the Python of the tools."""
    python = sys.executable if tools is None else str(tools)
    # Isolated, or the modules here that are called after a runtime would be imported for it.
    return [python, "-I", str(files("bascule.runtimes") / "torch_tools.py"), *arguments]


def convert(source: Source, act: str, file: Path) -> disk.ProgramEntry:
    """Write the network for a runtime.

    Raises:
        Unconvertible: The bundle holds no network of PyTorch, or the converter refuses it.
        MissingExtra: The converter is not installed.
    """
    bundle, original = source.bundle, source.bundle.manifest.original
    if original.format != _FORMAT:
        raise Unconvertible(
            f"{act} takes networks of PyTorch, and {bundle.name} was saved as {original.format}",
            hint="use --runtime ort, or c for trees and linear models",
        )
    entry = source.entry()
    with Scratch(f"bascule-{act}-") as scratch:
        _save_for_one_row(source, str(scratch / "program.pt2"))
        command = script(source.tools, act, str(scratch / "program.pt2"), str(file.absolute()))
        ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        problem = (ended.stderr.strip().splitlines() or ["it ended"])[-1]
        if problem.startswith("ModuleNotFoundError"):
            hint = "pip install litert-torch executorch, in an environment; --tools its python"
            raise MissingExtra(f"the converter is not installed: {problem}", hint=hint)
        raise Unconvertible(f"the converter refuses the network: {problem}")
    return entry


def _save_for_one_row(source: Source, file: str) -> None:
    import torch

    bundle, original = source.bundle, source.bundle.manifest.original
    data = disk.read_file(bundle.path, bundle.manifest, original.file)
    module: Any = module_from(data, original.file, bundle.signature)
    names = [field.name for field in bundle.signature.inputs]

    class ByPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(self.module(**dict(zip(names, tensors, strict=True))).values())

    row = tuple(
        torch.from_numpy(np.zeros((1, *field.shape), field.dtype.numpy))
        for field in bundle.signature.inputs
    )
    torch.export.save(torch.export.export(ByPlace().eval(), row, strict=False), file)
