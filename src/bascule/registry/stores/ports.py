"""The two ports of the registry, and their adapters beside them.

The records, in the catalogue, hold what is small and changes (names, numbers, aliases, history,
statements); the objects hold what is large and never does (the bundles). A bundle is put among the
objects before the catalogue has a row of it, so every bundle in the catalogue exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from bascule.bundle.disk import Statement
from bascule.registry.holding import Hold, Marked
from bascule.registry.search import Term
from bascule.registry.versions import Alias, Check, Deprecation, Event, Retirement, Version
from bascule.security import Key, Permission


class Transaction(Protocol):
    """A consistent view of the catalogue, and what may be written in one step.

    All lists are in the order of writing. Nothing is visible to others before the end of the
    `with` block, and nothing at all when it ends with an error.
    """

    def models(self) -> Sequence[str]: ...

    def lock_model(self, model: str, *, at: datetime) -> None:
        """Keep other writers from `model` until the end, and create it where it is new."""

    def versions(self, model: str) -> Sequence[Version]: ...

    def version(self, model: str, number: int) -> Version | None: ...

    def versions_of(self, digest: str) -> Sequence[Version]: ...

    def add_version(self, model: str, digest: str, *, at: datetime, by: str) -> Version:
        """Give `digest` the next number of a locked model."""

    def aliases(self, model: str) -> Mapping[str, Alias]: ...

    def put_alias(self, alias: Alias) -> None: ...

    def drop_alias(self, model: str, alias: str) -> None: ...

    def events(self, model: str, latest: int | None = None) -> Sequence[Event]: ...

    def add_event(self, event: Event) -> None: ...

    def statements(self, digest: str, kind: str | None = None) -> Sequence[Statement]:
        """By the time that they carry, the latest last."""

    def checks(self, digest: str) -> Sequence[Check]:
        """The verdicts that count: all but passes that bundles brought, after a check here."""

    def add_statement(self, statement: Statement, *, brought_by: str | None = None) -> bool:
        """Keep it; False when it was there already. `brought_by` is the user that pushed it."""

    def search(self, terms: Sequence[Term], limit: int) -> Sequence[Version]:
        """Those that meet every term, the latest pushed first."""

    def tags(self, model: str, number: int) -> Mapping[str, str]: ...

    def put_tag(self, model: str, number: int, key: str, value: str) -> None: ...

    def drop_tag(self, model: str, number: int, key: str) -> None: ...

    def metrics(self, digest: str) -> Mapping[str, float]:
        """The latest figure of each name."""

    def put_retirement(self, model: str, number: int, retired: Retirement | None) -> None: ...

    def put_deprecation(self, model: str, number: int, said: Deprecation | None) -> None: ...

    def deprecated(self) -> Sequence[Version]:
        """The versions in use that are deprecated, of every model."""

    def needed_by(self, version: str) -> Sequence[str]:
        """What needs a version beside aliases, in words; see `sql.Uses`."""

    def identity(self) -> str:
        """What tells this catalogue from every other, for ever."""

    def lock_object(self, digest: str, *, at: datetime) -> Marked:
        """Keep others from a digest until the end; how far its removal has come."""

    def put_object(self, digest: str, marked: Marked) -> None: ...

    def forget_object(self, digest: str) -> None: ...

    def objects(self) -> Mapping[str, Marked]: ...

    def holds(self, digest: str) -> Sequence[Hold]: ...

    def put_hold(self, hold: Hold) -> None: ...

    def drop_hold(self, digest: str, holder: str) -> None: ...

    def keys(self) -> Sequence[Key]:
        """Of callers, in the order of making."""

    def add_key(self, key: Key) -> None: ...

    def change_key(
        self, key_id: str, permissions: Sequence[Permission], *, expires_at: datetime | None,
        at: datetime, by: str, reason: str,
    ) -> None:  # fmt: skip
        """Give a key other rights, and record it in the history."""

    def end_key(self, key_id: str, *, at: datetime, by: str) -> None:
        """Revoke it; one that is revoked stays as it is."""


class Records(Protocol):
    """Where names, numbers, aliases, history and statements are kept."""

    def create(self) -> None:
        """Make it ready to be written, where it is not yet; fine when it is there."""

    def read(self) -> AbstractContextManager[Transaction]:
        """One consistent view. Raises `NotFound` where there is no catalogue; creates none."""

    def write(self) -> AbstractContextManager[Transaction]:
        """All or nothing, after and before others. Raises `NotFound` as `read` does."""


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
