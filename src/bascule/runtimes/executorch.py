"""ExecuTorch: networks of PyTorch, whose operators XNNPACK runs; see `networks`.

Its runtime comes with the converter, so the export is asked in the Python of the tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bascule.bundle import disk
from bascule.runtimes.child import open_child
from bascule.runtimes.networks import convert, script
from bascule.runtimes.program import ExportedProgram, Interface, Runtime, Source

_FILE = "model.pte"


def export(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the network."""
    return convert(source, "executorch", folder / _FILE), {}


def open_pte(folder: Path, tools: Path | None) -> ExportedProgram:
    """The network, one row at a time."""
    command = script(tools, "run", str((folder / _FILE).absolute()))
    return open_child("executorch", Interface.read(folder), command)


EXECUTORCH = Runtime(export, open_pte)
