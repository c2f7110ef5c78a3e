"""Files that people send to the console: bounded, of their owner alone, and gone after a day.

A file is written beside its place and renamed when it is whole. Its id is unguessable, and only the
person that sent it can use it.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import msgspec

from bascule.core import Invalid, NotFound, TooLarge, Unavailable

MAX_FILE_BYTES = 1 << 30
MAX_ALL_BYTES = 4 << 30
_KEPT_S = 86_400.0
_MAX_NAME = 128
_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Upload:
    """One file.

    Attributes:
        id: For addresses and forms.
        name: As the person's computer calls it, without folders.
        size_bytes: How large it is.
        owner: Who sent it.
    """

    id: str
    name: str
    size_bytes: int
    owner: str

    @property
    def suffix(self) -> str:
        """Its ending in lower case: `.csv`."""
        return Path(self.name).suffix.lower()


class Uploads:
    """The files below a home."""

    def __init__(self, home: Path | None) -> None:
        self._home = home

    @property
    def _folder(self) -> Path:
        if self._home is None:
            raise NotFound("this server takes no files", hint="run bascule up")
        return self._home / "console" / "uploads"

    async def receive(
        self, pieces: AsyncIterator[bytes], name: str, owner: str, suffixes: Sequence[str],
        *, max_bytes: int = MAX_FILE_BYTES,
    ) -> Upload:  # fmt: skip
        """Keep a file as it arrives.

        Raises:
            Invalid: Its name has another ending than `suffixes`, or it is empty.
            TooLarge: It is over `max_bytes`, or all files together are over `MAX_ALL_BYTES`.
            Unavailable: It cannot be written.
        """
        name = plain_name(name)
        check_suffix(name, suffixes)
        upload = Upload(secrets.token_urlsafe(16), name, 0, owner)
        folder = self._folder / upload.id
        try:
            room = MAX_ALL_BYTES - await anyio.to_thread.run_sync(self._sweep)
            await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, mode=0o700))
            size = await _write(pieces, folder / "draft", max_bytes, room)
            made = Upload(upload.id, name, size, owner)
            (folder / _ABOUT).write_bytes(msgspec.json.encode(asdict(made)))
            (folder / "draft").rename(folder / f"file{made.suffix}")
        except BaseException as problem:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(problem, OSError):
                raise Unavailable(
                    f"the file cannot be kept: {problem.strerror or problem}",
                    hint="free some space where the server's home is",
                ) from None
            raise
        return made

    def find(self, file: str, owner: str) -> tuple[Upload, Path]:
        """A file of this person, and where it is. Raises `NotFound`."""
        with suppress(OSError, msgspec.MsgspecError):
            if _ID.fullmatch(file):
                content = (self._folder / file / _ABOUT).read_bytes()
                found = msgspec.json.decode(content, type=Upload)
                path = self._folder / file / f"file{found.suffix}"
                if found.owner == owner and path.exists():
                    return found, path
        raise NotFound("there is no such file of yours any more", hint="choose it again")

    def _sweep(self) -> int:
        """Remove what is old; the bytes of the rest."""
        kept, limit = 0, time.time() - _KEPT_S
        for folder in self._folder.glob("*/"):
            with suppress(OSError):
                if folder.stat().st_mtime < limit:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    kept += sum(one.stat().st_size for one in folder.iterdir())
        return kept


async def _write(pieces: AsyncIterator[bytes], path: Path, most: int, room: int) -> int:
    size = 0
    async with await anyio.open_file(path, "xb") as file:
        async for piece in pieces:
            size += len(piece)
            if size > most:
                raise TooLarge(f"the file is over {most:,} bytes, the most that the console takes")
            if size > room:
                raise TooLarge(
                    f"the files of the console are over {MAX_ALL_BYTES:,} bytes",
                    hint="files are removed after a day; use a terminal meanwhile",
                )
            await file.write(piece)
    if not size:
        raise Invalid("the file is empty", hint="choose another file")
    return size


def plain_name(name: str) -> str:
    """The name of a file without folders and control characters. Raises `Invalid` for none."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(one for one in last if one.isprintable())[-_MAX_NAME:].strip()
    if not kept.strip("."):
        raise Invalid("the file has no name", hint="choose another file")
    return kept


def check_suffix(name: str, suffixes: Sequence[str]) -> None:
    """Raise `Invalid` for a name with another ending."""
    suffix = Path(name).suffix.lower()
    if suffix not in suffixes:
        hint = "pickles run code when they are read: save the model as .skops or .onnx"
        is_pickle = suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth")
        raise Invalid(
            f"{name}: a {suffix or 'nameless'} file is not taken here",
            hint=hint if is_pickle else f"choose {' or '.join(suffixes)}",
        )
