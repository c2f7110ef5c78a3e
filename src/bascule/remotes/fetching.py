"""Fetches a bundle: lists, judges, reads, verifies, and only then gives the folder its name."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from bascule.bundle.disk import drafting, read_manifest
from bascule.core import BasculeError, Invalid, TooLarge, load_named, masked, writing
from bascule.remotes.objects import Place, Remote, changed, choose

PLACES: Mapping[str, str] = {
    "gs": "bascule.remotes.gcs:open_place",
    "s3": "bascule.remotes.s3:open_place",
}
"""Where bundles are fetched from, by the scheme of the address."""

_ADDRESS = re.compile(
    r"(?P<scheme>\w+)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?P<path>/.*)?"
)
_TELL_EVERY_S = 5.0


def is_address(text: str) -> bool:
    """Whether a text is the address of a place that bundles are fetched from."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme in PLACES


def fetch(url: str, into: Path, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Copy the bundle at `url`, or directly in it, to the folder `into`, and verify it there.

    Args:
        url: `gs://BUCKET/FOLDER` or `s3://BUCKET/FOLDER`. Credentials come from where clients of
            these places look for them.
        into: The folder; it is there whole when this returns, and not at all if this raises.
        tell: Called with the progress.

    Raises:
        Invalid: The address cannot be read, or `into` cannot be written.
        MissingExtra: The client is not installed.
        NotFound: There is no such bucket, or no bundle there.
        Unavailable: The place cannot be reached, or rejects these credentials.
        Conflict: An object changed, or went, while it was read; or `into` exists.
        TooLarge: It is more than fits here, or than a bundle may have.
        Untrusted: A name, or the bytes of a file, are not those of an honest bundle.
    """
    url, bucket, prefix = _parse(url)
    with open_place(url, bucket, prefix) as place:
        files = choose(place.objects(), url)
        size_bytes = sum(one.size_bytes for one in files.values())
        _check_room(into.parent, size_bytes, url)
        progress = _Progress(url, len(files), size_bytes, tell)
        with drafting(into) as draft, _told_of(url, draft):
            for name, one in files.items():
                _fetch_file(place, one, draft / name, into / name, progress)
            read_manifest(draft)
    progress.end()


def open_place(url: str, bucket: str, prefix: str) -> AbstractContextManager[Place]:
    """The place of that scheme; `url` is what bucket and prefix are called together."""
    opener = load_named(PLACES[url.partition("://")[0]])
    place: AbstractContextManager[Place] = opener(url, bucket, prefix)
    return place


def _parse(url: str) -> tuple[str, str, str]:
    """The address without a `/` at its end, the bucket and the prefix."""
    found = _ADDRESS.fullmatch(url)
    folders = [] if found is None else (found["path"] or "").strip("/").split("/")
    if found is None or found["scheme"] not in PLACES or {".", ".."} & set(folders):
        raise Invalid(
            f"{masked(url)!r} is not a place in a bucket",
            hint="write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER, without credentials",
        )
    prefix = "/".join(folders)
    plain = f"{found['scheme']}://{found['bucket']}" + (f"/{prefix}" if prefix else "")
    return plain, found["bucket"], prefix


def _check_room(folder: Path, size_bytes: int, url: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if size_bytes > free_bytes:
        raise TooLarge(
            f"{url} holds {_mb(size_bytes)}, and {folder} has {_mb(free_bytes)} free",
            hint="make room there, or set TMPDIR to a folder that has it",
            limit=free_bytes,
        )


def _fetch_file(place: Place, one: Remote, target: Path, into: Path, progress: _Progress) -> None:
    """Read one object to `target`, which will be `into`."""
    with writing(into):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            bounded = _Bounded(file, into, one, progress)
            place.copy(one, bounded)
    if bounded.left_bytes:
        raise changed(one, progress.url)
    progress.files += 1


class _Bounded:
    """Writes no more than was listed: what is longer than its place says may have no end."""

    def __init__(self, file: IO[bytes], into: Path, one: Remote, progress: _Progress) -> None:
        self.left_bytes = one.size_bytes
        self._file, self._into, self._one, self._progress = file, into, one, progress

    def write(self, data: bytes, /) -> int:
        if len(data) > self.left_bytes:
            raise changed(self._one, self._progress.url)
        # Here, and not only by the caller: to a client every OSError is of the network.
        with writing(self._into):
            self._file.write(data)
        self.left_bytes -= len(data)
        self._progress.add(len(data))
        return len(data)


class _Progress:
    def __init__(self, url: str, files: int, size_bytes: int, tell: Callable[[str], None]) -> None:
        self.files = 0
        self.url, self._all_files, self._all_bytes, self._tell = url, files, size_bytes, tell
        self._bytes = 0
        self._began_s = self._told_s = time.monotonic()
        tell(f"fetching {url}: {files} files, {_mb(size_bytes)}")

    def add(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._tell(
                f"fetching {self.url}: {self.files} of {self._all_files} files, "
                f"{_mb(self._bytes)} of {_mb(self._all_bytes)}"
            )

    def end(self) -> None:
        took_s = time.monotonic() - self._began_s
        self._tell(
            f"fetched {self.url}: {self.files} files, {_mb(self._bytes)} in {took_s:.1f} s; "
            "every digest is right"
        )


@contextmanager
def _told_of(url: str, draft: Path) -> Iterator[None]:
    """Errors about the bundle name its address, not the draft."""
    try:
        yield
    except BasculeError as error:
        error.message = error.message.replace(str(draft), url)
        raise


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
