"""What runs a program, by its kind. One file each, one line each in the table."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bascule.core import Untrusted, load_named

if TYPE_CHECKING:
    from bascule.bundle.disk import ProgramEntry
    from bascule.core import Field, Program

_KINDS: dict[str, str] = {
    "onnx": "bascule.bundle.programs.onnx:open_onnx",
    "llvm": "bascule.bundle.programs.llvm:open_llvm",
    "composition": "bascule.bundle.programs.kinds:open_alone",
}
"""Openers by kind; each module also has `obstacle()`."""

_RETIRED: dict[str, str] = {"onedal": "pack the model again: machine code replaces oneDAL"}
"""Kinds that bundles of earlier versions have, and what to do; their other programs run."""

COMPOSITION = "composition"
"""The kind of program that runs those of other bundles; see `opening.open_composition`."""

MACHINE_CODE = "llvm"
"""The kind of program that adds up trees; see `programs.trees`."""

ONNX = "onnx"
"""The kind of program that execution providers run."""


def open_kind(
    entry: ProgramEntry,
    data: bytes,
    *,
    outputs: tuple[Field, ...],
    threads: int = 1,
    providers: Sequence[str] = (),
) -> Program:
    """The program of an entry, from its verified bytes.

    `providers`: of ONNX Runtime; other kinds have none. See `programs.onnx.open_session`.

    Raises:
        MissingExtra: What runs it is not installed.
        Untrusted: The kind is not known, or the runtime cannot take the bytes.
    """
    if entry.kind not in _KINDS:
        raise Untrusted(
            f"{entry.file} is a program of kind {entry.kind!r}, which this version cannot run",
            hint=_obstacle(entry.kind),
            file=entry.file,
        )
    opener: Any = load_named(_KINDS[entry.kind])
    settings: dict[str, Any] = {} if entry.texts is None else {"texts": entry.texts}
    if providers and entry.kind == ONNX:
        settings["providers"] = providers
    program: Program = opener(
        data,
        name=entry.name,
        file=entry.file,
        inputs=entry.inputs,
        outputs=outputs,
        missing_text=entry.missing_text,
        threads=threads,
        **settings,
    )
    return program


def open_alone(_data: bytes, **_: object) -> Program:
    """Of a composition, whose file without those of its parts answers nothing: raises."""
    raise Untrusted("a composition is opened from its folder", hint="bascule.load(FOLDER)")


def obstacle() -> str:
    """Of a composition: its parts say what they need when they are opened."""
    return ""


def runnable(entries: Sequence[ProgramEntry]) -> list[str]:
    """The names of the programs that this machine can run, in the bundle's order."""
    return [entry.name for entry in entries if is_runnable(entry.kind)]


def is_runnable(kind: str) -> bool:
    """Whether this machine can run programs of a kind."""
    return not _obstacle(kind)


def obstacles(entries: Sequence[ProgramEntry]) -> dict[str, str]:
    """By the name of each program that this machine cannot run: what to do about it."""
    return {entry.name: _obstacle(entry.kind) for entry in entries if not is_runnable(entry.kind)}


def _obstacle(kind: str) -> str:
    if kind not in _KINDS:
        return _RETIRED.get(kind, "update bascule")
    module = import_module(_KINDS[kind].partition(":")[0])
    return str(module.obstacle())
