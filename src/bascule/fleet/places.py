"""Where a repository lies: a folder or a bucket of S3, with any web server or CDN in front.

A name gets its content once, whole. One name is changed again and again, each time on the condition
that it is still the same.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from bascule.core import Conflict, Invalid, replacing, sync_folder, writing

if TYPE_CHECKING:
    from obstore import PutMode

CHANNEL = "channel-"
"""What the name of a channel's role begins with."""


class Place(Protocol):
    """Files by names such as `metadata/1.root.json`."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is none."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; False where it is."""

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        """Write `after` in place of `before`; False where there is another content."""


def open_place(url: str, home: Path) -> Place:
    """The place at `files:///FOLDER` or `s3://BUCKET/PREFIX`; of no address a folder of the home.

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
    hint = "write files:///FOLDER or s3://BUCKET/PREFIX"
    raise Invalid("edge.repository is no place", hint=hint)


class Folder:
    """A folder that a web server serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def create(self, name: str, content: bytes) -> bool:
        target = self._folder / name
        if target.exists():
            return False
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Conflict):
            self._write(target, content, overwrite=False)
            return True
        return False

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        target = self._folder / name
        with writing(target), target.with_name(f".{target.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read(name) != before:
                return False
            self._write(target, after, overwrite=True)
            return True

    def _write(self, target: Path, content: bytes, *, overwrite: bool) -> None:
        with replacing(target, overwrite=overwrite) as draft, draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(target.parent)


class Bucket:
    """Objects under a prefix, in a store that knows conditional writes."""

    def __init__(self, bucket: str, prefix: str) -> None:
        from bascule.registry.stores import connect

        self._place, self._store = f"s3://{bucket}/{prefix}", connect(bucket, prefix)

    def read(self, name: str) -> bytes | None:
        return self._got(name)[0]

    def create(self, name: str, content: bytes) -> bool:
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

    def _put(self, name: str, content: bytes, mode: PutMode) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        from bascule.registry.stores import explaining

        with explaining(self._place), suppress(AlreadyExistsError, PreconditionError):
            obstore.put(self._store, name, content, mode=mode)
            return True
        return False
