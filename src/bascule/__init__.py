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
        Server as Server,
        add_outcomes as add_outcomes,
        alerts as alerts,
        check as check,
        compose as compose,
        drift as drift,
        load as load,
        monitor as monitor,
        open_ledger as open_ledger,
        open_registry as open_registry,
        performance as performance,
        push as push,
        report as report,
        serve as serve,
        set_alias as set_alias,
    )
    from bascule.bundle import Answer as Answer, Bundle as Bundle
    from bascule.core import (
        BasculeError as BasculeError,
        BasculeWarning as BasculeWarning,
        Invalid as Invalid,
    )
    from bascule.deploying import (
        delete_endpoint as delete_endpoint,
        deploy as deploy,
        deprecate as deprecate,
        list_endpoints as list_endpoints,
        rollback as rollback,
        rollout as rollout,
        rollouts as rollouts,
        set_endpoint as set_endpoint,
        undeprecate as undeprecate,
    )
    from bascule.kinds import run_job as run_job
    from bascule.monitoring.ledger import outcome_draw as outcome_draw
    from bascule.packing import pack as pack, rebuild as rebuild
    from bascule.packing.flavors import (
        PythonModel as PythonModel,
        TextGeneration as TextGeneration,
    )
    from bascule.registry import Registry as Registry
    from bascule.release import Criterion as Criterion
    from bascule.training import pipeline as pipeline
    from bascule_client import AsyncClient as AsyncClient, Client as Client

_NAMES = {
    "bascule.api": (
        "Server add_outcomes alerts check compose drift load monitor open_ledger open_registry "
        "performance push report serve set_alias"
    ),
    "bascule.bundle": "Answer Bundle",
    "bascule.core.errors": "BasculeError BasculeWarning Invalid",
    "bascule.deploying": (
        "delete_endpoint deploy deprecate list_endpoints rollback rollout "
        "rollouts set_endpoint undeprecate"
    ),
    "bascule.kinds": "run_job",
    "bascule.monitoring.ledger": "outcome_draw",
    "bascule.packing": "PythonModel TextGeneration pack rebuild",
    "bascule.registry": "Registry",
    "bascule.release": "Criterion",
    "bascule.training": "pipeline",
    "bascule_client": "AsyncClient Client",
}
"""Public names by the room that has them; see `__getattr__`."""
_HOMES = {name: room for room, names in _NAMES.items() for name in names.split()}
__all__ = ["__version__", *_HOMES]


if not TYPE_CHECKING:  # or type checkers would take every name

    def __getattr__(name: str) -> Any:
        """Import a public name from its room, or a room, when it is first used."""
        from importlib import import_module
        from importlib.util import find_spec

        from bascule.core import load_named

        if name in _HOMES:
            value = load_named(f"{_HOMES[name]}:{name}")
        elif not name.startswith("_") and find_spec(f"bascule.{name}") is not None:
            value = import_module(f"bascule.{name}")
        else:
            raise AttributeError(f"module 'bascule' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
