"""From a network of PyTorch to the file of another runtime, by converters of their own Python.

The converters need a PyTorch of their own, and gigabytes: `tools` is the Python of an environment
that has them (`pip install litert-torch executorch`), or else this one. The network is exported for
one row, as a device asks.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import Bundle, disk
from bascule.core import MissingExtra, ModelFailed, Scratch
from bascule.packing.flavors import module_from
from bascule.runtimes.child import asked_by, run_tool
from bascule.runtimes.program import Ask, Interface, Runtime, bytes_of, refused


def runtime_of(file: str) -> Runtime:
    """A runtime that has a network in one file; its ending says which."""

    def open_network(folder: Path, interface: Interface, tools: Path | None) -> Ask:
        return asked_by(_command(tools, "run", str((folder / file).absolute())), interface)

    def export(
        bundle: Bundle, _entry: disk.ProgramEntry, folder: Path, tools: Path | None
    ) -> dict[str, Any]:
        _convert(bundle, (folder / file).absolute(), tools)
        return {}

    return Runtime(export, open_network)


def _command(tools: Path | None, *arguments: str) -> list[str]:
    script = files("bascule.runtimes") / "torch_tools.py"
    # Isolated, or the modules here that are called after a runtime would be imported for it.
    return [sys.executable if tools is None else str(tools), "-I", str(script), *arguments]


def _convert(bundle: Bundle, file: Path, tools: Path | None) -> None:
    saved = bundle.manifest.original.format
    if saved != "torch-aten":
        raise refused(
            f"{file.suffix} is for networks of PyTorch, and {bundle.name} was saved as {saved}"
        )
    with Scratch("bascule-torch-") as scratch:
        program = str(scratch / "program.pt2")
        _save_for_one_row(bundle, program)
        try:
            run_tool(_command(tools, "convert", program, str(file)))
        except ModelFailed as problem:
            if problem.message.startswith("ModuleNotFoundError"):
                raise MissingExtra(
                    f"the converter is not installed: {problem.message}",
                    hint="pip install litert-torch executorch, elsewhere; --tools its python",
                ) from None
            raise refused(f"the converter refuses the network: {problem.message}") from None


def _save_for_one_row(bundle: Bundle, file: str) -> None:
    import torch

    saved, inputs = bundle.manifest.original.file, bundle.signature.inputs
    network: Any = module_from(bytes_of(bundle, saved), saved, bundle.signature)

    class ByPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            named = zip((field.name for field in inputs), tensors, strict=True)
            return tuple(self.network(**dict(named)).values())

    rows = (np.zeros((1, *field.shape), field.dtype.numpy) for field in inputs)
    row = tuple(torch.from_numpy(array) for array in rows)
    torch.export.save(torch.export.export(ByPlace().eval(), row, strict=False), file)
