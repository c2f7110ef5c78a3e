"""Bascule: the bridge between a trained model and production.

`pack` turns a fitted model into a bundle, `load` opens one, `rebuild` packs it again from what is
recorded, `Client` asks a server. Everything else is a command (`bascule --help`) over the same
rooms. Importing this package imports no framework.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bascule.core import version

# Newer builds of the runtime write a telemetry file on import and open connections later. The
# variable switches that off, and has to be set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = version.VERSION

if TYPE_CHECKING:
    from bascule.app import drift
    from bascule.bundle import Answer, Bundle, load, pack, rebuild
    from bascule.bundle.flavors import PythonModel
    from bascule.core import BasculeError, Invalid
    from bascule.release import Criterion
    from bascule_client import AsyncClient, Client

_HOMES = {
    "Answer": "bascule.bundle",
    "AsyncClient": "bascule_client",
    "BasculeError": "bascule.core.errors",
    "Bundle": "bascule.bundle",
    "Client": "bascule_client",
    "Criterion": "bascule.release",
    "Invalid": "bascule.core.errors",
    "PythonModel": "bascule.bundle",
    "drift": "bascule.app",
    "load": "bascule.bundle",
    "pack": "bascule.bundle",
    "rebuild": "bascule.bundle",
}
__all__ = [
    "Answer",
    "AsyncClient",
    "BasculeError",
    "Bundle",
    "Client",
    "Criterion",
    "Invalid",
    "PythonModel",
    "__version__",
    "drift",
    "load",
    "pack",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first used."""
    try:
        room = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'bascule' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
