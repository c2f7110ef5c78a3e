"""The keys of callers, kept in the registry's catalogue: one folder, or one database, holds all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bascule.core import Invalid, NotFound
from bascule.security import (
    Key,
    Permission,
    check_is_free,
    check_projects,
    create_key,
    in_force,
    revoke_key,
)

if TYPE_CHECKING:
    from bascule.registry.stores import Records


class CatalogueKeys:
    """See `security.keys.KeyStore`."""

    def __init__(self, records: Records, projects: Mapping[str, Sequence[str]] = {}) -> None:
        self._records = records
        self.projects = projects

    def stored(self) -> Sequence[Key]:
        """All that were ever made, in the order of making."""
        try:
            with self._records.read() as book:
                return book.keys()
        except NotFound:
            return []  # nothing was ever written, so no key was made

    def in_force(self) -> Sequence[Key]:
        """The same with the models of projects in their place: what keys are judged by."""
        return [
            replace(key, permissions=in_force(key.permissions, self.projects))
            for key in self.stored()
        ]

    def create(
        self,
        name: str,
        permissions: Sequence[Permission],
        *,
        by: str,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """A new key and its token; see `security.create_key`.

        Raises:
            Invalid: It would also be on a project that is not there.
        """
        check_projects(permissions, self.projects)
        return create_key(
            self, name, permissions, now=datetime.now(UTC), by=by, expires_at=expires_at
        )

    def end(self, name: str, *, by: str) -> Key:
        """Revoke the key of that name or id; see `security.revoke_key`."""
        return revoke_key(self, name, now=datetime.now(UTC), by=by)

    def change(
        self,
        key_id: str,
        permissions: Sequence[Permission],
        *,
        expires_at: datetime | None,
        by: str,
        reason: str = "",
    ) -> None:
        """Give a key other rights; its token stays. Recorded in the history.

        Raises:
            Invalid: It would allow nothing, or is on a project that is not there.
            NotFound: No live key has this id.
        """
        check_projects(permissions, self.projects)
        if not permissions:
            raise Invalid(f"key {key_id} would allow nothing", hint="revoke it")
        with self._records.write() as book:
            live = [key for key in book.keys() if key.revoked_at is None]  # noqa: SIM118 -- a query
            if not any(key.id == key_id for key in live):
                raise NotFound(f"no live key has the id {key_id!r}", hint="bascule keys list")
            book.change_key(
                key_id, permissions, expires_at=expires_at, at=datetime.now(UTC), by=by,
                reason=reason,
            )  # fmt: skip

    def add(self, key: Key) -> None:
        self._records.create()
        with self._records.write(alone=True) as book:
            check_is_free(key.name, book.keys(key.name), now=key.created_at)
            book.add_key(key)

    def revoke(self, key_id: str, *, at: datetime, by: str) -> None:
        with self._records.write() as book:
            book.end_key(key_id, at=at, by=by)
