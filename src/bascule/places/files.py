"""A place of files: a folder, or a bucket of S3.

`create` gives a name its content once, whole; `swap` changes it where it is still the same.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from bascule.core import Conflict, Invalid, replacing, sync_folder, synced, writing
from bascule.places.listing import bounded_stream
from bascule.places.s3 import connect, explaining

if TYPE_CHECKING:
    from obstore import PutMode

_MANY = 1_000
"""In one request to a bucket."""


class Place(Protocol):
    """Files by names such as `metadata/1.root.json`."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is none."""

    def is_here(self, name: str) -> bool:
        """Whether this host can have the file: a folder has it or not, a bucket is of all hosts."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; False where it is."""

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        """Write `after` in place of `before`; False where there is another content."""

    def files(self, folder: str) -> Iterator[tuple[str, datetime]]:
        """The files in a folder, at any depth, and when each was written."""

    def remove(self, *names: str) -> None:
        """Remove files; fine where there are none."""


def open_place(url: str, setting: str) -> Place:
    """The place at `files:///FOLDER` or `s3://BUCKET/PREFIX`, an address that a setting holds.

    Raises:
        Invalid: The address is of another kind.
    """
    parts = urlsplit(url)
    if parts.scheme == "files" and parts.path and not parts.netloc:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return Bucket(parts.netloc, parts.path.strip("/"))
    hint = "write files:///FOLDER or s3://BUCKET/PREFIX"
    raise Invalid(f"{setting} is not a place", hint=hint)


def place_beside(objects: str, home: Path, name: str) -> Place:
    """The place of private files in the bucket of `registry.objects`, or in the home."""
    if not objects.startswith("s3://"):
        return Folder(home / name, mode=0o700)
    return open_place(f"{objects.rstrip('/')}/{name}", "registry.objects")


class Folder:
    """A folder; `mode` of the folders that are made in it."""

    def __init__(self, folder: Path, mode: int = 0o777) -> None:
        self._folder, self._mode = folder, mode

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def is_here(self, name: str) -> bool:
        return (self._folder / name).exists()

    def create(self, name: str, content: bytes) -> bool:
        target = self._folder / name
        if target.exists():
            return False
        with writing(target):
            target.parent.mkdir(self._mode, parents=True, exist_ok=True)
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

    def files(self, folder: str) -> Iterator[tuple[str, datetime]]:
        for file in (self._folder / folder).rglob("[!.]*"):
            with suppress(FileNotFoundError):  # another process removes it
                written_at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
                if file.is_file():
                    yield str(file.relative_to(self._folder)), written_at

    def remove(self, *names: str) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _write(self, target: Path, content: bytes, *, overwrite: bool) -> None:
        with replacing(target, overwrite=overwrite) as draft, synced(draft) as file:
            file.write(content)
        sync_folder(target.parent)


class Bucket:
    """Objects under a prefix, in a store that knows conditional writes."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._store = connect(bucket, prefix)
        import obstore

        self._api, self._url = obstore, f"s3://{bucket}/{prefix}"
        self._explaining = partial(explaining, self._url)

    def read(self, name: str) -> bytes | None:
        return self._got(name)[0]

    def is_here(self, name: str) -> bool:  # noqa: ARG002 -- what is gone is known when it is read
        return True

    def create(self, name: str, content: bytes) -> bool:
        return self._put(name, content, "create")

    def swap(self, name: str, before: bytes | None, after: bytes) -> bool:
        now, mode = self._got(name)
        # Asked again: a request whose answer was lost is sent twice, and refused then.
        return now == before and (self._put(name, after, mode) or self.read(name) == after)

    def files(self, folder: str) -> Iterator[tuple[str, datetime]]:
        with self._explaining():
            pages = self._api.list(self._store, folder, chunk_size=_MANY)
            for item in bounded_stream(self._url, pages):
                yield item["path"], item["last_modified"]

    def remove(self, *names: str) -> None:
        for start in range(0, len(names), _MANY):
            with self._explaining(), suppress(FileNotFoundError):
                self._api.delete(self._store, names[start : start + _MANY])

    def _got(self, name: str) -> tuple[bytes | None, PutMode]:
        with self._explaining():
            try:
                reply = self._api.get(self._store, name)
            except FileNotFoundError:
                return None, "create"
            return bytes(reply.bytes()), {"e_tag": reply.meta["e_tag"] or ""}

    def _put(self, name: str, content: bytes, mode: PutMode) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._explaining(), suppress(AlreadyExistsError, PreconditionError):
            self._api.put(self._store, name, content, mode=mode)
            return True
        return False
