"""What the stories of the demo share: headings, the commands of a user, and the verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import ModelFailed

if TYPE_CHECKING:
    from rich.console import Console


def heading(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="dim")


def command(console: Console, folder: Path, *words: str, as_json: bool = True) -> Any:
    """What a command prints, as JSON; raises `ModelFailed` where it fails."""
    console.print(f"bascule {' '.join(words)}", style="dim", highlight=False)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BASCULE_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bascule")), *words, *["--json"] * as_json], cwd=folder,
        check=False,
        env={**environment, "BASCULE_HOME": str(folder / ".bascule")}, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise ModelFailed(
            f"bascule {words[0]} ended with {done.returncode}: {done.stderr[-500:]}",
            hint=f"run it in {folder}",
        )
    return json.loads(done.stdout) if as_json else done.stdout


def summary(
    console: Console, promises: Mapping[str, bool], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Say which promises were kept; the facts, and in `held` whether all were."""
    heading(console, "Summary")
    for promise, held in promises.items():
        console.print(
            f"[green]held[/green]    {promise}" if held else f"[red]broken[/red]  {promise}"
        )
    return {"held": all(promises.values()), **facts}
