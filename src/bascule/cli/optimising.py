"""The command that makes a model smaller for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli.context import AsJson, Ref
from bascule.cli.jobs import print_search, result_of
from bascule.cli.screen import note, print_table, say


def optimize(
    model: Ref,
    device: Annotated[str, typer.Option(help="A TOML file, or the name of one in devices/.")] = "",
    budget: Annotated[
        list[str] | None,
        typer.Option(help="'size <= 1 MB', 'latency_p50 <= 5 ms', 'accuracy >= parent - 0.01'."),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many ways to make it smaller are tried.")] = 60,
    train: Annotated[
        Path | None, typer.Option(help="Train other sizes by the model's pipeline in this file.")
    ] = None,
    prune: Annotated[
        bool, typer.Option(help="Try zeros in networks too: smaller downloads, equal files.")
    ] = False,
    chart: Annotated[Path | None, typer.Option(help="Draw size and quality as SVG here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find a smaller version for a device, no worse by a paired test; exit code 1 if none is."""
    import msgspec

    from bascule.optimising import Device, read_device

    profile = read_device(device) if device else Device()
    profile = msgspec.structs.replace(profile, budgets=(*profile.budgets, *(budget or ())))
    content = {
        "model": model, "trials": trials, "prunes": prune, "device": msgspec.to_builtins(profile),
        "train": str(train or ""),
    }  # fmt: skip
    result = result_of("optimise", content, as_json=as_json)
    print_search(result, _print, chart, as_json=as_json)
    if result["version"] is None:
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    tried = [own for own in result["candidates"] if not own["problem"]]
    print_table(
        ("how", "MB", "download MB", "ms", "latency", result["compared"].split()[0], ""),
        [
            (
                own["words"], f"{own['size_mb']:.4g}", f"{own['download_mb']:.4g}",
                f"{own['latency_ms']:.3g}", own["latency"], f"{own['worst']:+.4f}",
                "chosen" if own.get("is_chosen") else "front" if own.get("on_front") else "",
            )
            for own in (result["parent"], *tried)
        ],
        right=("MB", "download MB", "ms"),
    )  # fmt: skip
    if others := len(result["candidates"]) - len(tried):
        note(f"{others} others are over the budget, or could not be made; --json says why")
    for own in result["candidates"]:
        if own["is_chosen"]:
            smaller = result["parent"]["size_mb"] / own["size_mb"]
            say(f"{result['version']} is {smaller:.1f} times smaller than {result['reference']}")
            say(own["confirmed"])
    if result["version"] is None:
        say("no smaller model is within the budget and no worse")
