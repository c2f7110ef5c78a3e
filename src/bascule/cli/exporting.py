"""The command `export` of the group `edge`: a version for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath
from bascule.cli.screen import print_either


def export(
    model: RefOrPath,
    runtime: Annotated[
        str,
        typer.Option(help="onnx, ort, litert, executorch, c or web."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    tools: Annotated[
        Path | None,
        typer.Option(
            help="The Python that has the converter, for litert and executorch; the folder with "
            "node_modules, for web."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version for another runtime, if it answers there as its program does here."""
    from bascule.bundle import load
    from bascule.runtimes import export as export_to

    _, path = context.find(model)
    exported = export_to(load(path), runtime, out, tools=tools).to_json()
    print_either(exported, _shown(exported, out), as_json=as_json)


def _shown(exported: dict[str, Any], out: Path) -> str:
    parity = exported["parity"]
    rows = {f"{out / name}": f"{size:,} bytes" for name, size in exported["files"].items()}
    rows |= {name.replace("_", " "): f"{value:,}" for name, value in exported["facts"].items()}
    rows["one row, median"] = f"{exported['latency_p50_us']:.3g} us on this machine"
    rows["parity"] = f"{parity['reason']}, {parity['probes']} of them made up"
    return "\n".join(f"{name:<{max(map(len, rows))}}  {value}" for name, value in rows.items())
