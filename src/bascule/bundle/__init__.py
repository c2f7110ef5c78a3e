"""Bundles: pack a fitted model, compile it, prove it equal, open it again.

Names are imported when they are first used, so that a server which only reads bundles
(`bascule.bundle.disk.folder`) does not load what only packing needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule.bundle.answer import Answer
    from bascule.bundle.disk.folder import Manifest, Statement, read_manifest
    from bascule.bundle.flavors.python import PythonModel
    from bascule.bundle.loaded import Bundle, load
    from bascule.bundle.opening import open_program
    from bascule.bundle.packing import pack
    from bascule.bundle.rebuilding import Rebuilt, rebuild
    from bascule.bundle.statements.cost import Cost
    from bascule.bundle.statements.parity import Parity

_HOMES = {
    "Answer": "bascule.bundle.answer",
    "Bundle": "bascule.bundle.loaded",
    "Cost": "bascule.bundle.statements.cost",
    "Manifest": "bascule.bundle.disk.folder",
    "Parity": "bascule.bundle.statements.parity",
    "PythonModel": "bascule.bundle.flavors.python",
    "Rebuilt": "bascule.bundle.rebuilding",
    "Statement": "bascule.bundle.disk.folder",
    "load": "bascule.bundle.loaded",
    "open_program": "bascule.bundle.opening",
    "pack": "bascule.bundle.packing",
    "read_manifest": "bascule.bundle.disk.folder",
    "rebuild": "bascule.bundle.rebuilding",
}
__all__ = [
    "Answer",
    "Bundle",
    "Cost",
    "Manifest",
    "Parity",
    "PythonModel",
    "Rebuilt",
    "Statement",
    "load",
    "open_program",
    "pack",
    "read_manifest",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'bascule.bundle' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
