"""Looks at the machine: what is there, what is missing, what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.bundle.originals import distribution_of
from bascule.core import BasculeError, Conflict, counted, is_there, masked_text
from bascule.security import Vault
from bascule.serving.workers import bind

if TYPE_CHECKING:
    from bascule.settings import Settings

_NEEDED = (
    "numpy", "onnxruntime", "onnx", "httptools", "uvloop", "msgspec", "pysimdjson", "pyarrow",
    "sqlalchemy", "alembic", "fastapi", "uvicorn", "typer", "rich",
)  # fmt: skip
_NEED = re.compile(r"([A-Za-z0-9._-]+).*;.*extra == [\"']([a-z0-9-]+)[\"']")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `state` is ok, absent (fine without) or FAILED."""

    what: str
    state: str
    found: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that a first run needs."""
    findings = [
        _python(),
        *_packages(),
        *_extras(),
        _telemetry(),
        _machine(),
        _home(settings.home),
        *_secrets(),
        _registry(settings),
        *_ports(settings),
    ]
    return [replace(one, found=masked_text(one.found)) for one in findings]


def _python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    hint = "" if fits else "use Python 3.11, 3.12 or 3.13"
    return Finding("python", "ok" if fits else "FAILED", platform.python_version(), hint)


def _packages() -> Iterator[Finding]:
    # ONNX Runtime with other execution providers is a distribution of another name.
    versions = {name: _version(name) or _version(distribution_of(name)) for name in _NEEDED}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("packages", "FAILED", f"missing: {', '.join(missing)}", "pip install bascule")
    else:
        shown = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "onnxruntime", "uvloop"))
        yield Finding("packages", "ok", f"{len(_NEEDED)} of {len(_NEEDED)}; {shown}")


def extras() -> dict[str, list[str]]:
    """The distributions of each extra, from the metadata of the installed distribution."""
    found: dict[str, list[str]] = {}
    for text in importlib.metadata.requires("bascule") or ():
        if (need := _NEED.match(text)) and need[1] != "bascule":
            found.setdefault(need[2], []).append(need[1])
    return found


def _extras() -> Iterator[Finding]:
    for extra, names in extras().items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            found, hint = f"missing: {', '.join(missing)}", f'pip install "bascule[{extra}]"'
            yield Finding(f"extra {extra}", "absent", found, hint)
        else:
            found = ", ".join(f"{name} {_version(name)}" for name in names)
            yield Finding(f"extra {extra}", "ok", found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _telemetry() -> Finding:
    off = os.environ.get("ORT_DISABLE_TELEMETRY") == "1"
    if off:
        return Finding("runtime telemetry", "ok", "off")
    return Finding(
        "runtime telemetry", "FAILED", "ORT_DISABLE_TELEMETRY is not 1", "unset it, or set it to 1"
    )


def _machine() -> Finding:
    import psutil

    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    found = f"{cores} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    return Finding("machine", "ok", found)


def _home(home: Path) -> Finding:
    place = home
    while not is_there(place) and place != place.parent:
        place = place.parent
    if os.access(place, os.W_OK, effective_ids=True):
        return Finding(
            "home", "ok", str(home) if is_there(home) else f"{home} (made at first push)"
        )
    hint = "set BASCULE_HOME to a folder of yours"
    return Finding("home", "FAILED", f"{place} is not writable", hint)


def _secrets() -> Iterator[Finding]:
    try:
        if address := Vault().check():
            yield Finding("secrets", "ok", f"{address} knows the token")
    except BasculeError as error:
        yield Finding("secrets", "FAILED", error.message, error.hint)


def _registry(settings: Settings) -> Finding:
    from bascule.app import open_registry

    if not is_there(settings.home):
        return Finding("registry", "absent", "nothing pushed yet", "bascule push PATH")
    try:
        models = open_registry(settings).models()
    except BasculeError as error:
        return Finding("registry", "FAILED", error.message, error.hint)
    return Finding("registry", "ok", counted(len(models), "model"))


def _ports(settings: Settings) -> Iterator[Finding]:
    chosen = settings.serving
    for what, port in (("port", chosen.port), ("control port", chosen.control_port)):
        try:
            listener: socket.socket = bind(chosen.host, port, 1)[0]
        except Conflict as error:
            yield Finding(
                what, "absent", error.message, "a running server has it, or choose another"
            )
        except BasculeError as error:
            yield Finding(what, "FAILED", error.message, error.hint)
        else:
            listener.close()
            yield Finding(what, "ok", f"{port} is free")
