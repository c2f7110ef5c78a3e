"""The archive of a model that is code: its sources under `code/`, its files under `files/`.

The same files give the same bytes: names are sorted, and there are neither times nor compression.
"""

from __future__ import annotations

import io
import weakref
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from bascule.bundle.programs import ChildProgram
from bascule.core import Scratch, Untrusted, is_inside


def from_archive(data: bytes, file: str, *required: str) -> dict[str, bytes]:
    """The parts of an archive, by their path.

    Args:
        data: The archive.
        file: Its name, for messages.
        required: Parts that it has beside `code/` and `files/`.

    Raises:
        Untrusted: It is no such archive, or a name in it leads out of its folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            for entry in entries:
                known = entry.filename in required or (
                    entry.filename.startswith(("code/", "files/")) and is_inside(entry.filename)
                )
                if not known or entry.compress_type != zipfile.ZIP_STORED:
                    raise Untrusted(f"{file} holds {entry.filename!r}", file=file)
            if len({entry.filename for entry in entries}) != len(entries):
                raise Untrusted(f"{file} holds a file twice", file=file)
            parts = {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        raise Untrusted(f"{file} is not an archive", file=file) from None
    for name in required:
        if name not in parts:
            raise Untrusted(f"{file} has no {name}", file=file)
    return parts


def in_child(
    parts: Mapping[str, bytes], arguments: Callable[[str], list[str]], **settings: Any
) -> ChildProgram:
    """A program in a process of its own that reads the parts as files of a folder.

    Args:
        parts: The files; the folder is removed with the program.
        arguments: The arguments of `programs.host`, from the path of the folder.
        settings: What else `ChildProgram` takes.
    """
    scratch = Scratch("bascule-model-")
    try:
        (scratch.path / "files").mkdir()
        for name, content in parts.items():
            place = scratch.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        program = ChildProgram(arguments(str(scratch.path)), **settings)
    except BaseException:
        scratch.remove()
        raise
    weakref.finalize(program, scratch.remove)
    return program
