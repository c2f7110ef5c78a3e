"""A repository as far as its signatures go: a client of The Update Framework (TUF 1.0).

python-tuf follows the client workflow of the specification (5.3 to 5.7). This module brings the
bytes, and says of a refusal which attack it looks like.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO

import httpx
from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from bascule.core import Unavailable, Untrusted
from bascule.edge.deltas import corrupted

_TIMEOUT_S = 30.0
_VERSIONED = re.compile(r".*/(\d+)\.[^/]+\.json")
_LATER = "try again later"


def connection() -> httpx.Client:
    """A client of HTTP that takes bytes as they are stored."""
    headers = {"Accept-Encoding": "identity"}
    return httpx.Client(timeout=_TIMEOUT_S, headers=headers, follow_redirects=True)


class Trust:
    """The metadata of one repository. What is older than the accepted is refused.

    Its methods raise `Untrusted`, whose message begins with the name of the attack, and
    `Unavailable` where the repository does not answer.
    """

    def __init__(
        self, folder: Path, metadata_url: str, targets_url: str, client: httpx.Client,
        root: bytes | None = None,
    ) -> None:  # fmt: skip
        """Ask nothing yet; `folder` keeps what was accepted, also the root, if None is given."""
        folder.mkdir(parents=True, exist_ok=True)
        self._fetcher = _Fetcher(client)
        with self._named():
            self._updater = Updater(
                str(folder), metadata_url, target_base_url=targets_url, fetcher=self._fetcher,
                bootstrap=root,
            )  # fmt: skip

    def refresh(self) -> None:
        """Take in the newest metadata."""
        with self._named():
            self._updater.refresh()

    def target(self, name: str) -> TargetFile | None:
        """Length, hashes and custom of a target; None where no role speaks of it."""
        with self._named():
            return self._updater.get_targetinfo(name)

    def download(self, target: TargetFile, part: Path, to: Path, budget_bytes: int) -> int:
        """Write a target to the file `to`, of what `part` has and the rest; the bytes received."""
        fetcher = self._fetcher
        fetcher.part, fetcher.budget_bytes = part, budget_bytes
        try:
            self._updater.download_target(target, str(to))
        except exceptions.LengthOrHashMismatchError as error:
            part.unlink()
            raise corrupted(f"{error} ({fetcher.url})") from None
        finally:
            fetcher.part = None
        part.unlink()
        return fetcher.received

    @contextmanager
    def _named(self) -> Iterator[None]:
        fetcher = self._fetcher
        try:
            yield
        except exceptions.DownloadLengthMismatchError as error:
            raise Untrusted(f"endless data: {error}", hint=_LATER) from None
        except exceptions.DownloadError as error:
            raise Unavailable(f"{fetcher.url} cannot be read: {error}", hint=_LATER) from None
        except exceptions.RepositoryError as error:
            attack = attack_of(error, fetcher.url, fetcher.content)
            raise Untrusted(f"{attack}: {error} ({fetcher.url})", hint=_LATER) from None


def attack_of(error: exceptions.RepositoryError, url: str, content: bytes) -> str:
    """The name of the attack that a refusal looks like, from what was fetched last. Pure.

    A wrong version is a rollback where the repository says openly that it is older, and mix and
    match where a file has the name of one version and the content of another.
    """
    if isinstance(error, exceptions.ExpiredMetadataError):
        return f"frozen, or the clock of this device ({datetime.now(UTC):%Y-%m-%d}) is wrong"
    if isinstance(error, exceptions.UnsignedMetadataError) or "not part of snap" in str(error):
        return "unknown role"
    if isinstance(error, exceptions.BadVersionNumberError):
        named, says = _VERSIONED.fullmatch(url), 0
        with suppress(ValueError, KeyError):
            says = json.loads(content)["signed"]["version"]
        return "mixed and matched" if named and int(named[1]) != says else "rolled back"
    is_mixed = isinstance(error, exceptions.LengthOrHashMismatchError)
    return "mixed and matched" if is_mixed or "is missing info" in str(error) else "corrupted"


@dataclass
class _Fetcher(FetcherInterface):
    """Brings metadata whole, and targets into a part; remembers what was fetched last."""

    client: httpx.Client
    url: str = ""
    content: bytes = b""
    part: Path | None = None
    budget_bytes: int = 0
    received: int = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.url, self.content = url, b""
        try:
            with self.client.stream("GET", url) as reply:
                if reply.status_code != httpx.codes.OK:
                    raise exceptions.DownloadHTTPError(f"{reply}", reply.status_code)
                for chunk in reply.iter_raw():
                    self.content += chunk
                    yield chunk
        except httpx.HTTPError as error:
            raise exceptions.DownloadError(str(error) or type(error).__name__) from None

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        if self.part is None:
            with super().download_file(url, max_length) as file:
                yield file
        else:
            self.url = url
            self.received = download(self.client, url, self.part, max_length, self.budget_bytes)
            with self.part.open("rb") as file:
                yield file


def download(client: httpx.Client, url: str, part: Path, size_bytes: int, budget_bytes: int) -> int:
    """Add to the file `part` what is missing of `size_bytes`; returns the bytes received.

    Raises:
        Unavailable: They are not all there now; `part` has those that came, and the fact
            `bytes_received` counts them.
    """
    received, problem = 0, "the reply ended too early"
    with part.open("ab") as file:
        try:
            for chunk in _rest(client, url, file, size_bytes):
                if received == budget_bytes:
                    problem = f"the budget of {budget_bytes:,} bytes is used up"
                    break
                taken = chunk[: min(budget_bytes - received, size_bytes - file.tell())]
                received += file.write(taken)
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
        file.flush()
        os.fsync(file.fileno())
        missing_bytes = size_bytes - file.tell()
    if missing_bytes:
        message = f"{missing_bytes:,} bytes of {url} are missing: {problem}"
        raise Unavailable(message, hint=_LATER, bytes_received=received)
    return received


def _rest(client: httpx.Client, url: str, file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """What the file lacks; it is emptied where the server sends all of it again."""
    if file.tell() == size_bytes:
        return
    headers = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
    with client.stream("GET", url, headers=headers) as reply:
        reply.raise_for_status()
        if reply.status_code != httpx.codes.PARTIAL_CONTENT:
            file.truncate(0)
            file.seek(0)
        # In pieces of no set size: what a piece lacks when it breaks off would be lost.
        for chunk in reply.iter_raw():
            yield chunk
            if file.tell() == size_bytes:
                return
