"""LiteRT (TensorFlow Lite) and ExecuTorch, from networks of PyTorch, by converters of their own.

The converters need a PyTorch of their own, and gigabytes: `tools` is the Python of an environment
that has them (`pip install litert-torch executorch`), or else this one. The network is exported for
one row, as a device asks.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import Bundle, disk
from bascule.core import Scratch
from bascule.packing.flavors import module_from
from bascule.runtimes.tools import Ask, asked_by, bytes_of, refused, run_tool

_HINT = "pip install litert-torch executorch, elsewhere; --tools its python"


def _to_file(
    bundle: Bundle, entry: disk.ProgramEntry, folder: Path, tools: Path | None, *, name: str
) -> tuple[Ask, dict[str, Any]]:
    file, saved = folder.absolute() / name, bundle.manifest.original.format
    if saved != "torch-aten":
        raise refused(
            f"{file.suffix} is for networks of PyTorch, and {bundle.name} was saved as {saved}"
        )
    script = str(files("bascule.runtimes") / "torch_tools.py")
    # Isolated, or the modules here that are called after a runtime would be imported for it.
    python = [sys.executable if tools is None else str(tools), "-I", script]
    with Scratch("bascule-torch-") as scratch:
        _save_for_one_row(bundle, str(scratch / "program.pt2"))
        run_tool([*python, "convert", str(scratch / "program.pt2"), str(file)], _HINT)
    return asked_by([*python, "run", str(file)], bundle, entry, _HINT), {}


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


to_litert = partial(_to_file, name="model.tflite")
to_executorch = partial(_to_file, name="model.pte")
