"""Bascule: the bridge between a trained model and production.

`pack` turns a fitted model into a bundle, `check` judges it, `push` and `set_alias` register it,
`load` opens it, `rebuild` packs it again from what is recorded, `serve` starts a server, `Client`
asks one; `monitor`, `drift` and `report` look at production. Everything else is a command
(`bascule --help`) over the same rooms. Importing this package imports no framework.
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
    from bascule.api import (
        Server,
        add_outcomes,
        alerts,
        check,
        drift,
        load,
        monitor,
        open_ledger,
        open_registry,
        performance,
        push,
        report,
        serve,
        set_alias,
    )
    from bascule.bundle import Answer, Bundle
    from bascule.core import BasculeError, BasculeWarning, Invalid
    from bascule.deploying import (
        delete_endpoint,
        deploy,
        deprecate,
        list_endpoints,
        rollback,
        rollout,
        rollouts,
        set_endpoint,
        undeprecate,
    )
    from bascule.kinds import run_job
    from bascule.monitoring.ledger import outcome_draw
    from bascule.packing import pack, rebuild
    from bascule.packing.flavors import PythonModel
    from bascule.registry import Registry
    from bascule.release import Criterion
    from bascule_client import AsyncClient, Client

_HOMES = {
    "Answer": "bascule.bundle",
    "AsyncClient": "bascule_client",
    "BasculeError": "bascule.core.errors",
    "BasculeWarning": "bascule.core.errors",
    "Bundle": "bascule.bundle",
    "Client": "bascule_client",
    "Criterion": "bascule.release",
    "Invalid": "bascule.core.errors",
    "PythonModel": "bascule.packing",
    "Registry": "bascule.registry",
    "Server": "bascule.api",
    "add_outcomes": "bascule.api",
    "alerts": "bascule.api",
    "check": "bascule.api",
    "delete_endpoint": "bascule.deploying",
    "deploy": "bascule.deploying",
    "deprecate": "bascule.deploying",
    "drift": "bascule.api",
    "list_endpoints": "bascule.deploying",
    "load": "bascule.api",
    "monitor": "bascule.api",
    "open_ledger": "bascule.api",
    "open_registry": "bascule.api",
    "outcome_draw": "bascule.monitoring.ledger",
    "pack": "bascule.packing",
    "performance": "bascule.api",
    "push": "bascule.api",
    "rebuild": "bascule.packing",
    "report": "bascule.api",
    "rollback": "bascule.deploying",
    "rollout": "bascule.deploying",
    "rollouts": "bascule.deploying",
    "run_job": "bascule.kinds",
    "serve": "bascule.api",
    "set_alias": "bascule.api",
    "set_endpoint": "bascule.deploying",
    "undeprecate": "bascule.deploying",
}
__all__ = [
    "Answer",
    "AsyncClient",
    "BasculeError",
    "BasculeWarning",
    "Bundle",
    "Client",
    "Criterion",
    "Invalid",
    "PythonModel",
    "Registry",
    "Server",
    "__version__",
    "add_outcomes",
    "alerts",
    "check",
    "delete_endpoint",
    "deploy",
    "deprecate",
    "drift",
    "list_endpoints",
    "load",
    "monitor",
    "open_ledger",
    "open_registry",
    "outcome_draw",
    "pack",
    "performance",
    "push",
    "rebuild",
    "report",
    "rollback",
    "rollout",
    "rollouts",
    "run_job",
    "serve",
    "set_alias",
    "set_endpoint",
    "undeprecate",
]


if not TYPE_CHECKING:  # or type checkers would take every name

    def __getattr__(name: str) -> Any:
        """Import a public name from its room, or a room, when it is first used."""
        from importlib import import_module
        from importlib.util import find_spec

        if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        elif not name.startswith("_") and find_spec(f"bascule.{name}") is not None:
            value = import_module(f"bascule.{name}")
        else:
            raise AttributeError(f"module 'bascule' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
