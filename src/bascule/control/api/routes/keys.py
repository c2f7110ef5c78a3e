"""The routes about the keys of callers: an administrator's, by the permission `keys`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.control.api.conventions import Conditional, Moment, Page, Paged, Taken
from bascule.control.api.rights import caller_of, serves
from bascule.control.api.views import KeyView, NewKeyView
from bascule.core import NotFound
from bascule.registry import operations as of_registry
from bascule.security import Permission

if TYPE_CHECKING:
    from bascule.registry import Keys


class NewKey(Taken):
    """A key to make."""

    name: Annotated[str, Field(max_length=128)]
    permissions: Annotated[list[str], Field(max_length=1_000, description="infer:late, read:*")]
    expires_at: Moment | None = None


def add_keys(app: FastAPI, open_keys: Callable[[], Keys]) -> None:
    """Add the routes to `app`."""

    @serves(app, of_registry.KEYS)
    def keys(paged: Paged) -> Page[KeyView]:
        """The keys in the order of making, without their secrets."""
        now = datetime.now(UTC)
        return paged.numbered(open_keys().stored(), lambda one: KeyView.of(one, now))

    @serves(app, of_registry.CREATE_KEY)
    def create(wanted: NewKey, request: Request, response: Response) -> NewKeyView:
        """Make a key. `token` is shown this once; servers take it within a second."""
        permissions = [Permission.parse(text) for text in wanted.permissions]
        key, token = open_keys().create(
            wanted.name, permissions, by=caller_of(request).user,
            expires_at=wanted.expires_at,
        )  # fmt: skip
        response.headers["Location"] = f"/api/v1/keys/{key.id}"
        response.headers["Cache-Control"] = "no-store"
        return NewKeyView(**KeyView.of(key, datetime.now(UTC)).model_dump(), token=token)

    def current(key: str) -> KeyView:
        found = next((one for one in open_keys().stored() if one.id == key), None)
        if found is None:
            raise NotFound(f"no key has the id {key!r}", hint="bascule keys list shows them")
        return KeyView.of(found, datetime.now(UTC))

    @serves(app, of_registry.KEY)
    def one(key: str) -> KeyView:
        """One key, by its id."""
        return current(key)

    @serves(app, of_registry.REVOKE_KEY)
    def revoke(key: str, request: Request, condition: Conditional) -> KeyView:
        """Revoke a key, by its id or its name; every server refuses it within a second."""
        if condition.is_given:
            condition.check(current(key))
        ended = open_keys().end(key, by=caller_of(request).user)
        return KeyView.of(ended, datetime.now(UTC))
