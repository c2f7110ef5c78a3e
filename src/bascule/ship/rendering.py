"""Templates to files, and files to a folder; targets choose the templates."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bascule.core import Conflict, replacing, writing
from bascule.ship.shipment import CONTROL_PORT, GRPC_PORT, PORT, UID, Shipment

Files = Mapping[str, str]
"""Texts by their path in the folder, with `/` between its parts."""

MARKER = ".bascule-ship"
"""The file that names what a folder holds of ours; other files of the folder are never touched."""

_TEMPLATES = Path(__file__).parent / "templates"
_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,
)
_environment.filters["quoted"] = json.dumps
_environment.filters["shell"] = shlex.quote


def render_folder(folder: str, shipment: Shipment, **facts: Any) -> dict[str, str]:
    """Every template of a folder; the suffix `.j2` is dropped from the names."""
    root = _TEMPLATES / folder
    found = sorted(path for path in root.rglob("*.j2"))
    return {
        str(path.relative_to(root).with_suffix("")): render_one(
            f"{folder}/{path.relative_to(root)}", shipment, **facts
        )
        for path in found
    }


def render_one(template: str, shipment: Shipment, **facts: Any) -> str:
    """One template by its path in `templates`."""
    return render_text(
        template, s=shipment, port=PORT, grpc_port=GRPC_PORT, control_port=CONTROL_PORT, uid=UID,
        **facts,
    )  # fmt: skip


def render_text(template: str, **facts: Any) -> str:
    """One template by its path in `templates`, without a shipment."""
    return _environment.get_template(template).render(**facts)


def write_files(files: Files, folder: Path, *, target: str) -> list[str]:
    """Write the files that differ; delete those that an earlier rendering has left. The changed.

    Raises:
        Conflict: The folder holds another target.
    """
    ours = _ours(folder)
    if ours and ours["target"] != target:
        raise Conflict(
            f"{folder} holds the target {ours['target']}",
            hint=f"choose another folder for {target}",
        )
    changed = [name for name, text in files.items() if text_of(folder / name) != text]
    for name in changed:
        write_file(folder / name, files[name])
    gone = sorted(set(ours.get("files", ())) - set(files))
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    marker = json.dumps({"target": target, "files": sorted(files)}, indent=1) + "\n"
    if text_of(folder / MARKER) != marker:
        write_file(folder / MARKER, marker)
    return [*changed, *gone]


def difference(files: Files, folder: Path) -> Iterator[str]:
    """The lines of a unified diff from the folder to the files; none where they are equal."""
    for name in sorted({*files, *_ours(folder).get("files", ())}):
        before, after = text_of(folder / name), files.get(name)
        if before != after:
            yield from difflib.unified_diff(
                (before or "").splitlines(keepends=True),
                (after or "").splitlines(keepends=True),
                f"a/{name}" if before is not None else "/dev/null",
                f"b/{name}" if after is not None else "/dev/null",
            )


def _ours(folder: Path) -> dict[str, Any]:
    text = text_of(folder / MARKER)
    found: dict[str, Any] = {} if text is None else json.loads(text)
    return found


def write_file(path: Path, text: str) -> None:
    """Write a text as a whole, in a folder that is made if it is not there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def text_of(path: Path) -> str | None:
    """The text of a file; None if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None
