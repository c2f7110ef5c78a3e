"""The routes that read the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path, Query, Request

from bascule.bundle.disk import Statement
from bascule.control.api.conventions import Page, Paged
from bascule.control.api.rights import Authorise, serves
from bascule.control.api.views import ModelView
from bascule.core import Invalid, Reference
from bascule.registry import Alias, Change, Check, Event, Found, Version, operations as of_registry

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.registry import Registry

Number = Annotated[int, Path(ge=1, lt=2**31)]
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
    @serves(app, of_registry.MODELS)
    def models(paged: Paged) -> Page[ModelView]:
        """Every model by name, its newest version and its aliases."""
        return paged.page(open_registry().models(), lambda one: one.name, ModelView.of)

    @serves(app, of_registry.MODEL)
    def one_model(model: str) -> ModelView:
        """One model."""
        registry = open_registry()
        registry.aliases(model)  # says which models are there, if this one is not
        return ModelView.of(next(one for one in registry.models() if one.name == model))

    @serves(app, of_registry.HISTORY)
    def history(model: str, paged: Paged) -> Page[Event]:
        """The events of a model, the latest first."""
        return paged.numbered(open_registry().history(model), descending=True)

    @serves(app, of_registry.ALIASES)
    def aliases(model: str, paged: Paged) -> Page[Alias]:
        """The aliases of a model, by name."""
        found = sorted(open_registry().aliases(model).values(), key=lambda one: one.name)
        return paged.page(found, lambda one: one.name)

    @serves(app, of_registry.ALIAS)
    def alias(model: str, alias: str) -> Alias:
        """One alias."""
        return open_registry().alias(model, alias)


def _add_versions(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @serves(app, of_registry.VERSIONS)
    def versions(model: str, paged: Paged) -> Page[Version]:
        """Every version of a model, the newest first."""
        found = sorted(open_registry().versions(model), key=lambda one: -one.number)
        return paged.page(found, lambda one: one.number, descending=True)

    @serves(app, of_registry.VERSION)
    def version(model: str, number: Number) -> Version:
        """One version, also a retired one."""
        return version_of(open_registry(), model, number)

    @serves(app, of_registry.RESOLVE)
    def resolve(
        model: str,
        number: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        alias: Annotated[str | None, Query(max_length=128)] = None,
    ) -> Version:
        """The version that a reference means.

        Without number and alias: the newest version in use whose gates have not failed.
        """
        wanted = Reference(model, number=number, alias=None if number else alias)
        return open_registry().resolve(wanted)


def _add_records(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @serves(app, of_registry.STATEMENTS)
    def statements(
        model: str, number: Number, paged: Paged, kind: str | None = None
    ) -> Page[Statement]:
        """The statements about a version, the latest last: parity, cost, provenance, gates."""
        registry = open_registry()
        said = registry.statements(version_of(registry, model, number), kind)
        return paged.numbered(said)

    @serves(app, of_registry.CHECKS)
    def checks(model: str, number: Number, paged: Paged) -> Page[Check]:
        """The verdicts of gates that count, the latest last."""
        registry = open_registry()
        found = registry.checks(version_of(registry, model, number))
        return paged.numbered(found)

    @serves(app, of_registry.TAGS)
    def tags(model: str, number: Number) -> dict[str, str]:
        """The tags of a version."""
        registry = open_registry()
        return registry.tags(version_of(registry, model, number))

    @serves(app, of_registry.SERVERS)
    def servers(model: str, number: Number, paged: Paged) -> Page[str]:
        """The servers that serve the bundle of a version, as HOST PROCESS; known within 30 s."""
        registry = open_registry()
        found = registry.servers_of(version_of(registry, model, number))
        return paged.page(found, str)


def _add_comparing(
    app: FastAPI, open_registry: Callable[[], Registry], authorise: Authorise
) -> None:
    @serves(app, of_registry.SEARCH)
    def search(paged: Paged, query: Annotated[str, Query(max_length=4_096)] = "") -> Page[Found]:
        """The versions that meet every term of `bascule search`, the latest pushed first.

        A version that is pushed between two pages may repeat an item.
        """
        start = int(paged.after) if isinstance(paged.after, int) else -1
        if not -1 <= start < _MAX_SEARCHED:
            raise Invalid("cursor: not a cursor of this list", hint="narrow the search")
        found = open_registry().search(query, limit=start + paged.limit + 2)
        return paged.numbered(found)

    @serves(app, of_registry.DIFFERENCES)
    def differences(
        model: str,
        number: Number,
        other: Annotated[str, Query(max_length=512, description="late/2 or late@champion")],
        request: Request,
        paged: Paged,
    ) -> Page[Change]:
        """What changes from this version to the other one."""
        reference = Reference.parse(other)
        authorise(request, "read", reference.model)
        registry = open_registry()
        before = version_of(registry, model, number)
        changes = registry.compare(before, registry.resolve(reference, retired=True))
        return paged.numbered(changes)
