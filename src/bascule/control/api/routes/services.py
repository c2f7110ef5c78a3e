"""The part of the control API that says what is served, and changes it while the server runs.

The same in two forms: Bascule's own, and the model repository extension of the Open Inference
Protocol, which clients of other servers speak.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Path, Request
from pydantic import Field

from bascule.control import operations as of_server
from bascule.control.answers import IndexEntry, Nothing, Served
from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, serves
from bascule.control.link import ServerLink
from bascule.core import Invalid, Reference
from bascule.security import ANY
from bascule.serving import (
    ModelSpec,
    ModelSpecs,
    check_unplanned,
    default_of,
    loaded,
    swapped,
    unloaded,
    without,
)
from bascule.serving.workers import ModelState

FindService = Callable[[str], ModelSpec]
"""The version that a reference means, checked, and held until it is served."""

_CHANGE_THREADS = CapacityLimiter(4)
"""Changes wait for each other: 40 of them would take all threads that answer requests."""

P = ParamSpec("P")
T = TypeVar("T")

_Name = Annotated[str, Path(min_length=1, max_length=128)]


class LoadRequest(Taken):
    """A version to load, and what becomes of the others."""

    reference: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="late, late/2, late@champion, or a bundle's folder on the server",
        ),
    ]
    role: Annotated[
        Literal["beside", "default", "swap"],
        Field(
            description="beside: no other version is touched; default: it answers to the plain "
            "name from now on; swap: and the default before it is unloaded"
        ),
    ] = "beside"


def add_services(app: FastAPI, server: ServerLink, find: FindService, authorise: Authorise) -> None:
    """Add the routes to `app`.

    Args:
        app: The application.
        server: The server whose services they are.
        find: Finds what a reference means; it raises what a caller should know.
        authorise: Asked before anything is looked up or changed.
    """
    _add_own(app, server, find, authorise)
    _add_repository(app, server, find, authorise)


def _apart(handle: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run what handles a change on a thread that no other request needs."""

    @wraps(handle)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread.run_sync(partial(handle, *args, **kwargs), limiter=_CHANGE_THREADS)

    return run


Edit = Callable[[ModelSpecs], ModelSpecs]


def _changer(server: ServerLink) -> Callable[[Edit, str], ModelSpecs]:
    """Changes what is served of a model, unless a plan says what its name answers."""

    def change(edit: Edit, model: str) -> ModelSpecs:
        def checked(now: ModelSpecs) -> ModelSpecs:
            check_unplanned(server.plans, model)
            return edit(now)

        return server.change(checked)

    return change


def _add_own(app: FastAPI, server: ServerLink, find: FindService, authorise: Authorise) -> None:
    change = _changer(server)

    @serves(app, of_server.SERVICES)
    def services(paged: Paged) -> Page[Served]:
        """What is served now, the default version of a model before its others."""
        return paged.numbered(_views(server))

    @serves(app, of_server.LOAD_SERVICE)
    @_apart
    def load(wish: LoadRequest, request: Request) -> Page[Served]:
        """Load a version in every worker, then turn to it; no request is lost."""
        authorise(request, "manage", _model_of(wish.reference))
        service = find(wish.reference)
        authorise(request, "manage", service.model)  # a folder is what its manifest says
        if wish.role == "swap":
            change(lambda now: swapped(now, service), service.model)
        else:
            is_default = wish.role == "default"
            change(lambda now: loaded(now, service, default=is_default), service.model)
        return Page(items=_views(server), next=None)

    @serves(app, of_server.UNLOAD_SERVICE)
    @_apart
    def unload(model: _Name, request: Request, version: str | None = None) -> Page[Served]:
        """Unload a version, or the only one; what it has under way is answered."""
        authorise(request, "manage", model)
        change(lambda now: unloaded(now, model, version), model)
        return Page(items=_views(server), next=None)


def _add_repository(
    app: FastAPI, server: ServerLink, find: FindService, authorise: Authorise
) -> None:
    change = _changer(server)

    # Clients send a body with parameters that mean nothing here: it is not read.
    @serves(app, of_server.INDEX)
    def index() -> list[IndexEntry]:
        """What is served."""
        return [IndexEntry(service.model, service.version) for service in server.services]

    @serves(app, of_server.LOAD_MODEL)
    @_apart
    def load(model: _Name, request: Request) -> Nothing:
        """Swap the model for its newest version whose gates have not failed."""
        authorise(request, "manage", model)
        service = find(model)
        change(lambda now: swapped(now, service), model)
        return Nothing()

    @serves(app, of_server.UNLOAD_MODEL)
    @_apart
    def unload(model: _Name, request: Request) -> Nothing:
        """Unload every version of the model."""
        authorise(request, "manage", model)
        change(lambda now: without(now, model), model)
        return Nothing()


def _model_of(reference: str) -> str:
    """The model that a reference names; all of them where it is a folder, which may hold any."""
    try:
        return Reference.parse(reference).model
    except Invalid:
        return ANY


def _views(server: ServerLink) -> list[Served]:
    services = server.services
    current = {(plan.endpoint, plan.current.version) for plan in server.plans}
    states: dict[tuple[str, str], list[ModelState]] = {}
    for state in server.models():
        states.setdefault((state.model, state.version), []).append(state)
    return [
        Served(
            model=service.model,
            version=service.version,
            is_default=(service.model, f"{service.model}/{service.version}") in current
            if service.is_planned
            else service is default_of(services, service.model),
            loaded_in=sum(one.is_loaded for one in found),
            size_bytes=max((one.size_bytes for one in found), default=0),
        )
        for service in services
        for found in [states.get((service.model, service.version), [])]
    ]
