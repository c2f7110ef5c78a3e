"""Provenance: which code, data, settings and installed versions a model came from."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.originals import installed, version_of
from bascule.core import VERSION, Columns
from bascule.packing.imported import Rows
from bascule.packing.statements import machine

_GIT_TIMEOUT_S = 10.0
_PIECE_ROWS = 8_192
_TOOLS = ("onnx", "onnxruntime", "pyarrow", "skl2onnx", "skops")
"""What saves, compiles and writes: another version of one may give other bytes."""


def git_state(folder: Path, *only: Path) -> dict[str, Any] | None:
    """The commit that is checked out, and whether files differ from it; None outside of git.

    Args:
        folder: Inside the working folder.
        only: The files that may differ; all, if none is named.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--", *map(str, only))
    return {"commit": commit, "dirty": changes is None or bool(changes)}


def data_digest(columns: Columns, truth: Any = None) -> str:
    """A digest of the values, the same for every kind of table.

    Numbers count by their bytes in their type, texts by their characters, missing ones apart.
    """
    digest = hashlib.sha256()
    parts = dict(columns) if truth is None else {**columns, "\0truth": np.asarray(truth)}
    for name in sorted(parts):
        values = parts[name]
        if values.dtype.kind in "OUS":
            raw = repr(values.tolist()).encode()
            digest.update(f"{name}\0text\0{values.shape}\0{len(raw)}\0".encode())
            digest.update(raw)
            continue
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\0{values.nbytes}\0".encode())
        # Piece by piece: training rows may be most of the memory that there is.
        for start in range(0, len(values), _PIECE_ROWS):
            digest.update(values[start : start + _PIECE_ROWS].tobytes())
    return "sha256:" + digest.hexdigest()


def rows_json(rows: Rows | None) -> dict[str, Any] | None:
    """The record of a set of rows: how many, their digest, and the type of their truth."""
    if rows is None:
        return None
    return {
        "rows": len(rows),
        "sha256": data_digest(rows.columns, rows.truth),
        "truth": None if rows.truth is None else rows.truth.dtype.str,
    }


def tools() -> dict[str, str]:
    """What has a hand in a bundle's bytes beside what the model needs: versions, and processor."""
    made = {"bascule": VERSION, "processor": str(machine().get("cpu", ""))}
    for name in _TOOLS:
        with suppress(PackageNotFoundError):
            made[name] = version_of(name)
    return made


def locked(names: Iterable[str]) -> str:
    """One line `name==version` for each distribution and all that they require, sorted.

    Optional requirements and those that are not installed are left out.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name], requirements = installed(name)
        except PackageNotFoundError:
            continue
        waiting += requirements
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([f"# python {platform.python_version()}", *lines]) + "\n"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
