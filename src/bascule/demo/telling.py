"""What the stories of the demo share: headings, the commands of a user, and the verdict."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bascule.core import MissingExtra, ModelFailed, TimedOut, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def require(packages: Sequence[str], extra: str) -> None:
    """Raise `MissingExtra` where one of the packages that a story needs is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise MissingExtra(
            f"the demo needs packages that are not installed: {', '.join(missing)}",
            hint=f"pip install 'bascule[{extra}]'",
        )


def awaited(look: Callable[[], T | None], what: str, within_s: float, every_s: float) -> T:
    """What a look gives in the end; a process that is late to answer is asked again."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        with suppress(Unavailable):
            if seen := look():
                return seen
        time.sleep(every_s)
    raise TimedOut(f"{what} took over {within_s:g} s", hint="see its log")


def bascule_command() -> str:
    """The command of this installation."""
    return str(Path(sys.executable).with_name("bascule"))


def own_environment(home: Path) -> dict[str, str]:
    """The variables without settings of the user's, and with the home of a story."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BASCULE_")}
    return {**kept, "BASCULE_HOME": str(home)}


def heading(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="dim")


def command(console: Console, folder: Path, *words: str, as_json: bool = True) -> Any:
    """What a command prints, as JSON; raises `ModelFailed` where it fails."""
    console.print(f"bascule {' '.join(words)}", style="dim", highlight=False)
    done = subprocess.run(
        [bascule_command(), *words, *["--json"] * as_json], cwd=folder, check=False,
        env=own_environment(folder / ".bascule"), capture_output=True, text=True,
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
