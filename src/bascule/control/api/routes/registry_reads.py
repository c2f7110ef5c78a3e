"""The routes that read the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path, Query, Request

from bascule.control.api.conventions import Page, Paged
from bascule.control.api.rights import Authorise
from bascule.control.api.views import (
    AliasView,
    ChangeView,
    CheckView,
    EventView,
    FoundView,
    ModelView,
    StatementView,
    VersionView,
)
from bascule.core import Invalid, Reference

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.registry import Registry, Version

Number = Annotated[int, Path(ge=1, lt=2**31)]
_TAGS = "registry"
_MAX_SEARCHED = 1_000_000


def version_of(registry: Registry, model: str, number: int) -> Version:
    """A version by its number, also a retired one; raises `NotFound`."""
    return registry.resolve(Reference(model, number=number), retired=True)


def add_registry_reads(
    app: FastAPI, open_registry: Callable[[], Registry], authorise: Authorise
) -> None:
    """Add the routes to `app`."""
    _add_models(app, open_registry)
    _add_versions(app, open_registry)
    _add_records(app, open_registry)
    _add_comparing(app, open_registry, authorise)


def _add_models(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @app.get("/api/v1/models", tags=[_TAGS])
    def models(paged: Paged) -> Page[ModelView]:
        """Every model by name, its newest version and its aliases."""
        return paged.page(open_registry().models(), ModelView.of, lambda one: one.name)

    @app.get("/api/v1/models/{model}", tags=[_TAGS])
    def one_model(model: str) -> ModelView:
        """One model."""
        registry = open_registry()
        registry.aliases(model)  # says which models are there, if this one is not
        return ModelView.of(next(one for one in registry.models() if one.name == model))

    @app.get("/api/v1/models/{model}/history", tags=[_TAGS])
    def history(model: str, paged: Paged) -> Page[EventView]:
        """The events of a model, the latest first."""
        events = list(enumerate(open_registry().history(model)))[::-1]
        return paged.page(
            events, lambda one: EventView.of(one[1]), lambda one: one[0], descending=True
        )

    @app.get("/api/v1/models/{model}/aliases", tags=[_TAGS])
    def aliases(model: str, paged: Paged) -> Page[AliasView]:
        """The aliases of a model, by name."""
        found = sorted(open_registry().aliases(model).values(), key=lambda one: one.name)
        return paged.page(found, AliasView.of, lambda one: one.name)

    @app.get("/api/v1/models/{model}/aliases/{alias}", tags=[_TAGS])
    def alias(model: str, alias: str) -> AliasView:
        """One alias."""
        return AliasView.of(open_registry().alias(model, alias))


def _add_versions(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @app.get("/api/v1/models/{model}/versions", tags=[_TAGS])
    def versions(model: str, paged: Paged) -> Page[VersionView]:
        """Every version of a model, the newest first."""
        found = sorted(open_registry().versions(model), key=lambda one: -one.number)
        return paged.page(found, VersionView.of, lambda one: one.number, descending=True)

    @app.get("/api/v1/models/{model}/versions/{number}", tags=[_TAGS])
    def version(model: str, number: Number) -> VersionView:
        """One version, also a retired one."""
        return VersionView.of(version_of(open_registry(), model, number))

    @app.get("/api/v1/models/{model}/resolve", tags=[_TAGS])
    def resolve(
        model: str,
        number: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        alias: Annotated[str | None, Query(max_length=128)] = None,
    ) -> VersionView:
        """The version that a reference means.

        Without number and alias: the newest version in use whose gates have not failed.
        """
        wanted = Reference(model, number=number, alias=None if number else alias)
        return VersionView.of(open_registry().resolve(wanted))


def _add_records(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @app.get("/api/v1/models/{model}/versions/{number}/statements", tags=[_TAGS])
    def statements(
        model: str, number: Number, paged: Paged, kind: str | None = None
    ) -> Page[StatementView]:
        """The statements about a version, the latest last: parity, cost, provenance, gates."""
        registry = open_registry()
        said = registry.statements(version_of(registry, model, number), kind)
        return paged.page(
            list(enumerate(said)), lambda one: StatementView.of(one[1]), lambda one: one[0]
        )

    @app.get("/api/v1/models/{model}/versions/{number}/checks", tags=[_TAGS])
    def checks(model: str, number: Number, paged: Paged) -> Page[CheckView]:
        """The verdicts of gates that count, the latest last."""
        registry = open_registry()
        found = registry.checks(version_of(registry, model, number))
        return paged.page(
            list(enumerate(found)), lambda one: CheckView.of(one[1]), lambda one: one[0]
        )

    @app.get("/api/v1/models/{model}/versions/{number}/tags", tags=[_TAGS])
    def tags(model: str, number: Number) -> dict[str, str]:
        """The tags of a version."""
        registry = open_registry()
        return registry.tags(version_of(registry, model, number))

    @app.get("/api/v1/models/{model}/versions/{number}/servers", tags=[_TAGS])
    def servers(model: str, number: Number, paged: Paged) -> Page[str]:
        """The servers that serve the bundle of a version, as HOST PROCESS; known within 30 s."""
        registry = open_registry()
        found = registry.servers_of(version_of(registry, model, number))
        return paged.page(found, str, str)


def _add_comparing(
    app: FastAPI, open_registry: Callable[[], Registry], authorise: Authorise
) -> None:
    @app.get("/api/v1/search", tags=[_TAGS])
    def search(
        paged: Paged, query: Annotated[str, Query(max_length=4_096)] = ""
    ) -> Page[FoundView]:
        """The versions that meet every term of `bascule search`, the latest pushed first.

        A version that is pushed between two pages may repeat an item.
        """
        start = int(paged.after) if isinstance(paged.after, int) else -1
        if not -1 <= start < _MAX_SEARCHED:
            raise Invalid("cursor: not a cursor of this list", hint="narrow the search")
        found = open_registry().search(query, limit=start + paged.limit + 2)
        return paged.page(
            list(enumerate(found)), lambda one: FoundView.of(one[1]), lambda one: one[0]
        )

    @app.get("/api/v1/models/{model}/versions/{number}/differences", tags=[_TAGS])
    def differences(
        model: str,
        number: Number,
        other: Annotated[str, Query(max_length=512, description="late/2 or late@champion")],
        request: Request,
        paged: Paged,
    ) -> Page[ChangeView]:
        """What changes from this version to the other one."""
        reference = Reference.parse(other)
        authorise(request, "read", reference.model)
        registry = open_registry()
        before = version_of(registry, model, number)
        changes = registry.compare(before, registry.resolve(reference, retired=True))
        return paged.page(
            list(enumerate(changes)),
            lambda one: ChangeView.model_validate(one[1], from_attributes=True),
            lambda one: one[0],
        )
