"""Where a repository lies: a folder, or a bucket of S3; any web server or CDN stands in front.

A name gets its content once, whole: `create` refuses a name that is taken. One name is changed
again and again, by `swap`, which refuses where another process was sooner.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from bascule.core import Invalid, replacing, sync_folder, writing

if TYPE_CHECKING:
    from obstore import PutMode


class Place(Protocol):
    """Files by names such as `metadata/1.root.json`."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is none."""

    def create(self, name: str, content: bytes | Path) -> bool:
        """Write a file that is not there; False where it is."""

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        """Write `after` in place of `before`; False where there is another content."""


def open_place(url: str, home: Path) -> Place:
    """The place at `files:///DIR` or `s3://BUCKET/PREFIX`; of no address a folder of the home.

    Raises:
        Invalid: The address is of another kind.
    """
    parts = urlsplit(url)
    if not url:
        return Folder(home / "edge" / "repository")
    if parts.scheme == "files" and parts.path and not parts.netloc:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return Bucket(parts.netloc, parts.path.strip("/"))
    raise Invalid("edge.repository is no place", hint="write files:///FOLDER or s3://BUCKET/PREFIX")


class Folder:
    """A folder that a web server serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def create(self, name: str, content: bytes | Path) -> bool:
        target = self._folder / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                return False
        return _put(target, content, overwrite=False)

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        target = self._folder / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.with_name(f".{target.name}.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return self.read(name) == before and _put(target, after, overwrite=True)


def _put(target: Path, content: bytes | Path, *, overwrite: bool) -> bool:
    from bascule.core import Conflict

    try:
        with replacing(target, overwrite=overwrite) as draft, draft.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    except Conflict:
        return False
    target.chmod(0o644)
    sync_folder(target.parent)
    return True


class Bucket:
    """Objects under a prefix; the store must know conditional writes, as S3 does."""

    def __init__(self, bucket: str, prefix: str) -> None:
        from bascule.registry.stores import connect

        self._place = f"s3://{bucket}/{prefix}"
        self._store = connect(bucket, prefix)

    def read(self, name: str) -> bytes | None:
        return self._got(name)[0]

    def create(self, name: str, content: bytes | Path) -> bool:
        return self._put(name, content, "create")

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        now, mode = self._got(name)
        # Asked again: a request whose answer was lost is sent twice, and refused then.
        return now == before and (self._put(name, after, mode) or self.read(name) == after)

    def _got(self, name: str) -> tuple[bytes | None, PutMode]:
        import obstore

        from bascule.registry.stores import explaining

        with explaining(self._place):
            try:
                reply = obstore.get(self._store, name)
            except FileNotFoundError:
                return None, "create"
            return bytes(reply.bytes()), {"e_tag": reply.meta["e_tag"] or ""}

    def _put(self, name: str, content: bytes | Path, mode: PutMode) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        from bascule.registry.stores import explaining

        with explaining(self._place):
            try:
                obstore.put(self._store, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True
