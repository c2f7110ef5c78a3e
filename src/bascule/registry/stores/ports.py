"""The port of what keeps bundles; its adapters are `files` and `s3`, and the records are in `sql`.

The records, in the catalogue, hold what is small and changes (names, numbers, aliases, history,
statements); the objects hold what is large and never does (the bundles). A bundle is put among the
objects before the catalogue has a row of it, so every bundle in the catalogue exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol


class Objects(Protocol):
    """Where bundles are kept, each under its digest."""

    def put(self, digest: str, source: Path, files: Mapping[str, str | None]) -> None:
        """Keep a copy of a bundle; a whole copy that is there already is left alone.

        Args:
            digest: The bundle's.
            source: Its folder.
            files: The files to take, as paths relative to `source`, each with the digest that
                its bytes must have; None for one that no digest covers.

        Raises:
            Untrusted: A file's bytes are not what its digest says. Nothing is kept.
            Unavailable: It cannot be written: no space, no permission.
        """

    def owner(self, claim: str) -> str:
        """The owner of the objects: the first claim, which is `claim` if there is none yet."""

    def put_statement(self, digest: str, name: str, content: bytes) -> None:
        """Lay a statement beside the bundle that it speaks of."""

    def path(self, digest: str) -> Path:
        """The bundle as a local folder. Raises `NotFound`."""

    def digests(self) -> Mapping[str, datetime]:
        """Everything that takes space, half-written bundles too, and when it last changed."""

    def size_bytes(self, digest: str) -> int:
        """What it takes; 0 where there is nothing."""

    def remove(self, digest: str) -> None:
        """Delete it; no error if it is absent. No reader sees a part of it."""
