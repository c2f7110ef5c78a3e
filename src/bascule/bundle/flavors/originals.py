"""Opens the model as it was trained, where no compiled program may stand in for it."""

from __future__ import annotations

from importlib import import_module

from bascule.bundle.manifest import Manifest
from bascule.core.errors import Untrusted
from bascule.core.programs import Program

_OPENERS = {
    "catboost-cbm": "bascule.bundle.flavors.catboost:open_cbm",
    "keras": "bascule.bundle.flavors.keras:open_keras",
    "lightgbm-text": "bascule.bundle.flavors.lightgbm:open_text",
    "torch-aten": "bascule.bundle.flavors.aten:open_aten",
    "python": "bascule.bundle.flavors.python:open_code",
    "xgboost-json": "bascule.bundle.flavors.xgboost:open_json",
}
"""By format: what opens it, given the bytes, the manifest and the number of threads."""


def open_saved(data: bytes, manifest: Manifest, *, threads: int = 1) -> Program:
    """The saved original as a program; `data` has been verified against the manifest."""
    if manifest.original.format == "onnx":
        from bascule.bundle.programs.onnx import open_onnx

        return open_onnx(
            data,
            name="original",
            file=manifest.original.file,
            inputs=manifest.signature.inputs,
            outputs=manifest.signature.outputs,
            threads=threads,
        )
    if manifest.original.format == "skops":
        from bascule.bundle.flavors.sklearn import open_skops

        return open_skops(data, manifest)
    place = _OPENERS.get(manifest.original.format)
    if place is not None:
        module, _, name = place.partition(":")
        program: Program = getattr(import_module(module), name)(data, manifest, threads=threads)
        return program
    raise Untrusted(
        f"the original is in format {manifest.original.format!r}, which this version cannot open",
        hint="update bascule",
        file=manifest.original.file,
    )
