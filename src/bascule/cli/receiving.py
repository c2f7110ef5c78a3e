"""Pushes an uploaded archive in a process of its own: `python -m bascule.cli.receiving`.

The control process keeps the keys fresh, and an archive may be large or hostile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import KINDS, BasculeError, ModelFailed, TimedOut

if TYPE_CHECKING:
    from bascule.registry import Version
    from bascule.settings import Settings

_PUSH_S = 600.0


def receiver(settings: Settings) -> partial[Version]:
    """What pushes an archive by these settings; see `control.registry_writes.TakeIn`."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    return partial(take_in, TypeAdapter(Kind).dump_python(settings, mode="json"))


def take_in(settings: dict[str, Any], file: Path, model: str, user: str) -> Version:
    """Push an archive in a process of its own.

    Raises:
        BasculeError: What `Registry.import_archive` raises.
        ModelFailed: The process died.
        TimedOut: It took longer than ten minutes, and was killed.
    """
    asked = {"settings": settings, "file": str(file), "model": model, "user": user}
    command = [sys.executable, "-m", "bascule.cli.receiving", str(os.getpid())]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, timeout=_PUSH_S,
            check=False,
        )  # fmt: skip
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise TimedOut(f"the push to {model} took over {_PUSH_S:g} s", hint="retry") from None
    except ValueError:
        raise ModelFailed(f"the push to {model} failed; see the server's log") from None
    if "number" in said:
        from bascule.app import open_registry

        reference = f"{model}/{said['number']}"
        return open_registry(_settings_of(settings)).resolve(reference, retired=True)
    kind = next(kind for kind in KINDS if kind.__name__ == said["kind"])
    raise kind(said["error"], hint=said["hint"])


def main() -> None:
    """Push what standard input names; says the version's number, or the error."""
    from bascule.app import open_registry
    from bascule.bundle.programs import die_with
    from bascule.cli.screen import error_json, print_json

    die_with(int(sys.argv[1]))
    asked = json.loads(sys.stdin.read())
    try:
        version = open_registry(_settings_of(asked["settings"])).import_archive(
            Path(asked["file"]), by=asked["user"], model=asked["model"]
        )
        print_json({"number": version.number})
    except BasculeError as error:
        kind = next(one for one in type(error).__mro__ if one in KINDS)
        print_json({**error_json(error), "kind": kind.__name__})


def _settings_of(said: dict[str, Any]) -> Settings:
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    return TypeAdapter(Kind).validate_python(said)


if __name__ == "__main__":
    main()
