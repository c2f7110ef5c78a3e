"""The registry's values as the control API shows them, and back as its clients read them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, RootModel

if TYPE_CHECKING:
    from bascule.bundle.disk import Statement
    from bascule.registry import Alias, Check, Event, Found, Model, Version
    from bascule.security import Key


class RetirementView(BaseModel):
    """When, by whom and why a version was taken out of use."""

    at: datetime
    by: str
    reason: str


class DeprecationView(BaseModel):
    """The announcement that a version will go away."""

    at: datetime
    by: str
    reason: str
    sunset: Annotated[datetime | None, Field(description="From then on it is answered 410")]
    successor: Annotated[str, Field(description="The version to use instead; empty for none")]


class VersionView(BaseModel):
    """One version of a model."""

    model: str
    number: int
    digest: str
    pushed_at: datetime
    pushed_by: str
    gates: Annotated[str, Field(description="passed, failed or unchecked")]
    retired: RetirementView | None
    deprecated: DeprecationView | None

    @classmethod
    def of(cls, version: Version) -> VersionView:
        return cls.model_validate(version, from_attributes=True)


class AliasView(BaseModel):
    """A name that points to one version."""

    model: str
    name: str
    number: int
    moved_at: datetime

    @classmethod
    def of(cls, alias: Alias) -> AliasView:
        return cls.model_validate(alias, from_attributes=True)


class ModelView(BaseModel):
    """A model: its newest version and where its aliases point."""

    name: str
    versions: int
    newest: VersionView
    aliases: dict[str, int]

    @classmethod
    def of(cls, model: Model) -> ModelView:
        return cls(
            name=model.name,
            versions=model.versions,
            newest=VersionView.of(model.newest),
            aliases={name: alias.number for name, alias in model.aliases.items()},
        )


class EventView(BaseModel):
    """One line of a model's history."""

    kind: str
    model: str
    at: datetime
    by: str
    number: int | None
    alias: str | None
    from_number: int | None
    to_number: int | None
    reason: str
    key: Annotated[str | None, Field(description="The tag that was set or unset")]
    from_value: str | None
    to_value: str | None

    @classmethod
    def of(cls, event: Event) -> EventView:
        return cls.model_validate(event, from_attributes=True)


class StatementView(BaseModel):
    """A statement about a bundle: its parity, cost, provenance or gates."""

    kind: str
    subject: Annotated[str, Field(description="Digest of the bundle")]
    at: str
    by: str
    body: dict[str, Any]

    @classmethod
    def of(cls, statement: Statement) -> StatementView:
        return cls(
            kind=statement.kind,
            subject=statement.subject,
            at=statement.at,
            by=statement.by,
            body=dict(statement.body),
        )


class CheckView(BaseModel):
    """A verdict of gates that counts."""

    statement: StatementView
    brought_by: Annotated[str | None, Field(description="The user that pushed it with the bundle")]

    @classmethod
    def of(cls, check: Check) -> CheckView:
        return cls(statement=StatementView.of(check.statement), brought_by=check.brought_by)


class FoundView(BaseModel):
    """A version that a search found."""

    version: VersionView
    tags: dict[str, str]
    metrics: dict[str, float]

    @classmethod
    def of(cls, found: Found) -> FoundView:
        return cls(
            version=VersionView.of(found.version),
            tags=dict(found.tags),
            metrics=dict(found.metrics),
        )


class Tags(RootModel[dict[str, str]]):
    """The tags of a version."""


class ChangeView(BaseModel):
    """One difference between two versions; `before` or `after` is null where it is absent."""

    section: str
    name: str
    before: Any
    after: Any


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
