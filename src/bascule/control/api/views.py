"""The registry's values as the control API shows them, and back as its clients read them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from bascule.registry import Model, Version
from bascule.security import Key


class ModelView(BaseModel):
    """A model: its newest version and where its aliases point."""

    name: str
    versions: int
    newest: Version
    aliases: dict[str, int]

    @classmethod
    def of(cls, model: Model) -> ModelView:
        return cls(
            name=model.name,
            versions=model.versions,
            newest=model.newest,
            aliases={name: alias.number for name, alias in model.aliases.items()},
        )


class KeyView(BaseModel):
    """A key of a caller, without its secret."""

    id: str
    name: str
    permissions: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str
    state: Annotated[str, Field(description="live, expired or revoked")]

    @classmethod
    def of(cls, key: Key, now: datetime) -> KeyView:
        return cls(**key.to_json(), state=key.state(now))


class NewKeyView(KeyView):
    """A key that was made, with its token, which is not shown again."""

    token: str
