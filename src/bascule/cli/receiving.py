"""Pushes an uploaded archive in a process of its own: `python -m bascule.cli.receiving`.

The control process keeps the keys fresh, and an archive may be large or hostile.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.cli.children import answer_with_settings, told_settings
from bascule.core import Child, Limits

if TYPE_CHECKING:
    from bascule.registry import Version
    from bascule.settings import Settings

_PUSH_S = 600.0


def receiver(settings: Settings) -> partial[Version]:
    """What pushes an archive by these settings; see `control.registry_writes.TakeIn`."""
    return partial(take_in, told_settings(settings))


def take_in(settings: dict[str, Any], file: Path, model: str, user: str) -> Version:
    """Push an archive in a process of its own.

    Raises:
        BasculeError: What `Registry.import_archive` raises.
        ModelFailed: The process died.
        TimedOut: It took longer than ten minutes, and was killed.
    """
    from pydantic import TypeAdapter

    from bascule.app import open_registry
    from bascule.settings import Settings as Kind

    said = Child(
        "bascule.cli.receiving",
        {"settings": settings, "file": str(file), "model": model, "user": user},
        Limits(_PUSH_S, is_nice=True), what=f"the push to {model}",
    ).answer()  # fmt: skip
    registry = open_registry(TypeAdapter(Kind).validate_python(settings))
    return registry.resolve(f"{model}/{said['number']}", retired=True)


def _push(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    from bascule.app import open_registry

    version = open_registry(settings).import_archive(
        Path(asked["file"]), by=asked["user"], model=asked["model"]
    )
    return {"number": version.number}


if __name__ == "__main__":
    answer_with_settings(_push)
