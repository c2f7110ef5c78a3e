"""Output files: complete or absent, and an error names the path that cannot be written."""

from __future__ import annotations

import errno
import glob
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bascule.core.errors import Conflict, Invalid, NotFound
from bascule.core.scratch import Scratch, sweep

_NEXT_STEPS = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.ENOENT: "make the folder first, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_NEXT_STEP = "choose a place that you may write to"


@contextmanager
def writing(place: str | Path, *, hint: str = "") -> Iterator[None]:
    """Tell what the system refuses inside the block by its place, the reason and the next step.

    Args:
        place: What is written, in the caller's words: a draft's name says nothing to them.
        hint: The next step where the caller may not write there, if it is not another place.

    Raises:
        Invalid: In place of any `OSError`.
    """
    try:
        yield
    except OSError as problem:
        # pyarrow puts a sentence of its own, with the draft's name, where the reason should be.
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        step = _NEXT_STEPS.get(problem.errno or 0) or hint or _NEXT_STEP
        raise Invalid(
            f"{place} cannot be written: {reason}", hint=step, path=str(place)
        ) from problem


@contextmanager
def replacing(target: Path, *, hint: str = "", overwrite: bool = True) -> Iterator[Path]:
    """A draft to write to beside `target`; it becomes `target` when the block ends without error.

    Raises:
        Invalid: It cannot be written; `hint` is as in `writing`.
        Conflict: What is there is no regular file: a folder, a device, a link; or, without
            `overwrite`, another process has made a file there meanwhile.
    """
    check_replaceable(target)
    with writing(target, hint=hint), drafts_of(target) as folder:
        draft = folder / target.name
        yield draft
        if not overwrite:
            try:
                os.link(draft, target)
                return
            except FileExistsError:
                raise Conflict(f"{target} exists already", hint="choose another name") from None
            except OSError:
                pass  # a file system without hard links
        draft.replace(target)


@contextmanager
def synced(file: Path) -> Iterator[BinaryIO]:
    """A file to write to; its bytes are on the disk after the block, its name after `sync_folder`.

    Raises `OSError` as the system does.
    """
    with file.open("wb") as opened:
        yield opened
        opened.flush()
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder be on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drafts_of(target: Path) -> Scratch:
    """A folder beside `target` to make it in; those that killed processes left are removed."""
    sweep(target.parent, f".{glob.escape(target.name)}.????????.draft")
    return Scratch(f".{target.name}.", suffix=".draft", parent=target.parent)


def check_replaceable(target: Path) -> None:
    """Raise where `replacing` would refuse what is at `target`."""
    if target.name in ("", ".."):
        raise Invalid(f"{target} names no file", hint=f"add its name: {target / 'NAME'}")
    with writing(target), suppress(FileNotFoundError):
        if not stat.S_ISREG(target.lstat().st_mode):
            raise Conflict(
                f"{target} exists and is no regular file, so it is not overwritten",
                hint="choose another name",
                path=str(target),
            )


def is_there(path: Path, of_kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether a path is of a kind; not where the system cannot say so, as of a name too long."""
    try:
        return of_kind(path)
    except (OSError, ValueError):
        return False


def check_writable(target: Path) -> None:
    """Raise where `replacing` would fail, before the work whose result is written so."""
    check_replaceable(target)
    with writing(target), tempfile.TemporaryFile(dir=target.absolute().parent):
        pass


def check_file(path: Path, what: str) -> None:
    """Raise `NotFound` or `Invalid` where there is no file at `path`; `what` names it."""
    if not is_there(path):
        raise NotFound(f"no {what} at {path}", hint="check the path")
    if not path.is_file():
        raise Invalid(f"{what} {path} is not a file", hint="name the file itself")
