"""Bundles as folders in the file system, each under the digest of its manifest.

A folder appears whole or not at all: it is written beside its place under a name with the writer's
id, flushed to the disk, and renamed. What a killed writer left is removed by the next one. A large
file that several bundles have, such as the weights of a language model, is stored once, by links.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path, PurePosixPath

from bascule.core import (
    NotFound,
    Unavailable,
    Untrusted,
    is_file_name,
    sha256_bytes,
    sha256_file,
    sync_folder,
)

_CHUNK_BYTES = 1 << 20
_PARTIAL = re.compile(r"\.partial-(?P<pid>\d+)-[0-9a-f]+-(?P<host>.+)")
_LINKED_BYTES = 16 << 20
_ABANDONED_AFTER_S = 3_600.0
_MANIFEST = "bundle.json"
_OWNER = "owner"

_HEX = re.compile(r"[0-9a-f]{64}")


def open_objects(url: str, home: Path) -> Files:
    """The objects in the folder of `files:///FOLDER`; those of `home` where it names none."""
    folder = url.partition("://")[2]
    return Files(Path(folder) if folder else home / "objects")


class Files:
    """Objects in the folder `root`, which need not exist before the first `put`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, digest: str, source: Path, files: Mapping[str, str | None]) -> None:
        def fill(partial: Path) -> None:
            linked = {name for name in files if self._link(name, source, partial, files[name])}
            others = {name: files[name] for name in files if name not in linked}
            _copy_all(source, partial, others)

        self.put_filled(digest, files, fill)

    def put_filled(
        self, digest: str, files: Mapping[str, str | None], fill: Callable[[Path], None]
    ) -> None:
        """Keep what `fill` writes into the folder that it is given, and has verified."""
        with self._explaining():
            self._root.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            target = self._place(digest)
            if _is_whole(target, files):
                return
            partial = self._new_partial()
            try:
                fill(partial)
                _seal_all(partial)
                self._move_into_place(partial, target, files)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _link(self, name: str, source: Path, partial: Path, expected: str | None) -> bool:
        """Link a large file that another bundle has under the same name: it is stored once.

        Its bytes are compared with the digest, as those of a copy are.
        """
        relative = checked_name(name)
        try:
            size = (source / relative).lstat().st_size
        except OSError:
            return False
        if expected is None or size < _LINKED_BYTES:
            return False
        for folder in self._root.iterdir():
            there = folder / relative
            with suppress(OSError):
                if (
                    _HEX.fullmatch(folder.name)
                    and there.lstat().st_size == size
                    and sha256_file(there) == expected
                ):
                    (partial / relative).parent.mkdir(parents=True, exist_ok=True)
                    (partial / relative).hardlink_to(there)
                    return True
        return False

    def owner(self, claim: str) -> str:
        with self._explaining():
            self._root.mkdir(parents=True, exist_ok=True)
            partial = self._root / f".{_OWNER}.{secrets.token_hex(4)}"
            try:
                _write(partial, claim.encode())
                with suppress(FileExistsError):
                    (self._root / _OWNER).hardlink_to(partial)  # there whole, and once
            finally:
                partial.unlink(missing_ok=True)
            return (self._root / _OWNER).read_text()

    def put_statement(self, digest: str, name: str, content: bytes) -> None:
        with self._explaining():
            folder = self.path(digest) / "statements"
            folder.mkdir(exist_ok=True)
            target = folder / name
            if target.exists() and target.read_bytes() == content:
                return
            partial = folder / f".{name}.{secrets.token_hex(4)}"
            try:
                _write(partial, content)
                partial.rename(target)
                sync_folder(folder)
            finally:
                partial.unlink(missing_ok=True)

    def has(self, digest: str) -> bool:
        """Whether there is a copy; `path` says whether it is good."""
        return (self._place(digest) / _MANIFEST).is_file()

    def digests(self) -> dict[str, datetime]:
        if not self._root.is_dir():
            return {}
        with self._explaining():
            return {
                f"sha256:{folder.name}": datetime.fromtimestamp(folder.stat().st_mtime, UTC)
                for folder in self._root.iterdir()
                if _HEX.fullmatch(folder.name)
            }

    def size_bytes(self, digest: str) -> int:
        with self._explaining():
            files = self._place(digest).rglob("*")
            return sum(file.stat().st_size for file in files if file.is_file())

    def remove(self, digest: str) -> None:
        with self._explaining():
            place = self._place(digest)
            if not place.is_dir():
                return
            # Renamed first, deleted after: no reader sees a part of it.
            aside = self._new_partial()
            place.rename(aside / "removed")
            sync_folder(self._root)
            shutil.rmtree(aside, ignore_errors=True)

    def path(self, digest: str) -> Path:
        folder = self._place(digest)
        try:
            found = sha256_bytes((folder / _MANIFEST).read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"the files of {digest} are missing from {self._root}",
                hint="push the bundle again, from a copy of it",
                digest=digest,
            ) from None
        if found != digest:
            raise Untrusted(
                f"{folder / _MANIFEST} was altered: its digest is not the one it is kept under",
                hint="push the bundle again, from a copy of it; that replaces the altered files",
                file=_MANIFEST,
                expected=digest,
                found=found,
            )
        return folder

    def _place(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")

    def _new_partial(self) -> Path:
        host = socket.gethostname()
        partial = self._root / f".partial-{os.getpid()}-{secrets.token_hex(4)}-{host}"
        partial.mkdir()
        return partial

    def _move_into_place(
        self, partial: Path, target: Path, files: Mapping[str, str | None]
    ) -> None:
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
            if _is_whole(target, files):  # another writer was first with the same bytes
                return
            # What is there is damaged. Statements are not covered by the digest, but were made
            # for these bytes, and stay with them.
            _carry_over_statements(target, partial)
            damaged = self._new_partial()
            target.rename(damaged / "damaged")
            partial.rename(target)
            shutil.rmtree(damaged, ignore_errors=True)
        sync_folder(self._root)

    def _remove_abandoned(self) -> None:
        here, now = socket.gethostname(), time.time()
        for folder in self._root.glob(".partial-*"):
            named = _PARTIAL.fullmatch(folder.name)
            if named is None:
                continue
            try:
                is_old = now - folder.stat().st_mtime > _ABANDONED_AFTER_S
            except FileNotFoundError:
                continue
            if is_old or (named["host"] == here and not _is_running(int(named["pid"]))):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"cannot write to {self._root}: {error.strerror or error}",
                hint="check the free space and the permissions there",
            ) from error


def _copy_all(source: Path, partial: Path, files: Mapping[str, str | None]) -> None:
    for name, expected in files.items():
        relative = checked_name(name)
        target = partial / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _copy(source / relative, target)
        if expected is not None and found != expected:
            raise Untrusted(
                f"{source / name} was altered: its digest is not the one in the manifest",
                hint="pack the model again",
                file=name,
                expected=expected,
                found=found,
            )
        os.utime(partial)  # a long copy is not an abandoned one


def checked_name(name: str) -> PurePosixPath:
    """The path of a file inside its bundle; raises `Untrusted` where it leads out."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or not path.parts
        or ".." in path.parts
        or "\\" in name
        or not is_file_name(name)
    ):
        raise Untrusted(f"file name {name!r} leads out of the bundle", file=name)
    return path


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    # Links are refused: they could change what they point to after it was looked at.
    with (
        open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reader,
        target.open("xb") as writer,
    ):
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return "sha256:" + digest.hexdigest()


def _write(target: Path, content: bytes) -> None:
    with target.open("xb") as writer:
        writer.write(content)
        _seal(writer)


def _seal(writer: BufferedWriter) -> None:
    """Flush it to disk, and make it read-only."""
    writer.flush()
    os.fchmod(writer.fileno(), stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    os.fsync(writer.fileno())


def _seal_all(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
                os.fsync(file.fileno())
        sync_folder(Path(root))


def _is_whole(folder: Path, files: Mapping[str, str | None]) -> bool:
    try:
        return folder.is_dir() and all(
            digest is None or sha256_file(folder / name) == digest for name, digest in files.items()
        )
    except OSError:
        return False


def _carry_over_statements(damaged: Path, partial: Path) -> None:
    for statement in sorted((damaged / "statements").glob("[!.]*.json")):
        target = partial / "statements" / statement.name
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            _write(target, statement.read_bytes())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
