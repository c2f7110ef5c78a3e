"""The control API: the registry, the server's health and counters, and its documentation.

Of the registry it only reads. What is served it changes (`control.services`). Who may do what is
said in `control.rights`. It binds to the loopback address unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from bascule.control.link import ServerLink
from bascule.control.load import add_load
from bascule.control.rights import bearer, by_key, loopback_only, route_of
from bascule.control.services import FindService, add_services
from bascule.core import VERSION, BasculeError, Reference, masked_text
from bascule.serving.telemetry import prometheus_text
from bascule.serving.transports import Authenticator, error_text, status_of

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.registry import Registry, Version


class Health(BaseModel):
    """Whether the server answers predictions."""

    live: bool
    ready: bool
    name: str


class WorkerView(BaseModel):
    """One worker process."""

    worker: int
    pid: int
    alive: bool
    restarts: Annotated[int, Field(description="How often it was started again")]


class ServiceView(BaseModel):
    """One version that is or was served, and what was counted for it."""

    model: str
    version: str
    is_served: Annotated[bool, Field(description="False for one that was unloaded")]
    requests: int
    errors: Annotated[int, Field(description="Answers with a status of 400 or more")]
    rows: int


class ServerView(BaseModel):
    """The running server."""

    version: str
    host: str
    port: int
    workers: list[WorkerView]
    services: list[ServiceView]


class VersionView(BaseModel):
    """One version of a model."""

    model: str
    number: int
    digest: str
    pushed_at: datetime
    pushed_by: str
    gates: Annotated[str, Field(description="passed, failed or unchecked")]


class ModelView(BaseModel):
    """A model: its newest version and where its aliases point."""

    name: str
    versions: int
    newest: VersionView
    aliases: dict[str, int]


class EventView(BaseModel):
    """One line of a model's history."""

    kind: str
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


class StatementView(BaseModel):
    """What is said about a bundle: its parity, cost, provenance or gates."""

    kind: str
    at: str
    by: str
    body: dict[str, Any]


class ErrorView(BaseModel):
    """The one shape of errors."""

    error: str


def control_app(
    server: ServerLink,
    open_registry: Callable[[], Registry],
    find: FindService,
    guard: Authenticator | None = None,
) -> FastAPI:
    """The application.

    Args:
        server: The server that it speaks for.
        open_registry: Opens the registry when it is first asked for; a registry that is away is
            answered 503 then, and no reason not to serve.
        find: Finds the version that a reference means, when one is to be loaded.
        guard: Lets callers in; None lets everybody in, and only this machine change
            what is served.
    """
    app = FastAPIOffline(
        title="Bascule control API",
        version=VERSION,
        description="What is registered, served and counted; loads, swaps and unloads.",
        responses={"4XX": {"model": ErrorView}, 503: {"model": ErrorView}},
        dependencies=[] if guard is None else [Depends(bearer)],
    )
    app.router.route_class = route_of(guard)
    _add_errors(app)
    _add_server(app, server)
    add_load(app, server)
    add_services(app, server, find, loopback_only if guard is None else by_key(guard))
    _add_registry(app, open_registry)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(BasculeError)
    def told(_: Request, error: BasculeError) -> JSONResponse:
        status = status_of(error)
        headers = {"WWW-Authenticate": 'Bearer realm="bascule"'} if status == 401 else None
        return JSONResponse({"error": masked_text(error_text(error))}, status, headers)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{place}: {first['msg']}"}, 400)

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    def failed(_: Request, __: Exception) -> JSONResponse:
        # What it was is logged by the server that runs this.
        return JSONResponse({"error": "internal error; see the server's log"}, 500)


def _add_server(app: FastAPI, link: ServerLink) -> None:
    @app.get("/health", tags=["server"], responses={503: {"model": Health}})
    def health(response: Response) -> Health:
        """Ready when every worker is alive."""
        ready = all(status.alive for status in link.statuses())
        response.status_code = 200 if ready else 503
        return Health(live=True, ready=ready, name="bascule")

    @app.get("/metrics", tags=["server"], response_class=Response)
    def metrics() -> Response:
        """The counters of all workers in the Prometheus text format."""
        text = prometheus_text(link.labels, link.totals(), link.pulse())
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/api/v1/server", tags=["server"])
    def server() -> ServerView:
        """The workers, and what is served."""
        served = {(service.model, service.version) for service in link.services}
        services = [
            ServiceView(
                model=label.model,
                version=label.version,
                is_served=(label.model, label.version) in served,
                requests=total.requests,
                errors=sum(n for status, n in total.by_status.items() if status >= 400),
                rows=total.rows,
            )
            for label, total in zip(link.labels, link.totals(), strict=False)
            if label.model
        ]
        workers = [
            WorkerView(
                worker=status.worker, pid=status.pid, alive=status.alive, restarts=status.restarts
            )
            for status in link.statuses()
        ]
        host, port = link.address
        return ServerView(
            version=VERSION,
            host=host,
            port=port,
            workers=workers,
            services=services,
        )


def _add_registry(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @app.get("/api/v1/models", tags=["registry"])
    def models() -> list[ModelView]:
        """Every model, its newest version and its aliases."""
        return [
            ModelView(
                name=model.name,
                versions=model.versions,
                newest=_version_view(model.newest),
                aliases={name: alias.number for name, alias in model.aliases.items()},
            )
            for model in open_registry().models()
        ]

    @app.get("/api/v1/models/{model}/versions", tags=["registry"])
    def versions(model: str) -> list[VersionView]:
        """Every version of a model, the newest first."""
        found = open_registry().versions(model)
        return [
            _version_view(version)
            for version in sorted(found, key=lambda version: version.number, reverse=True)
        ]

    @app.get("/api/v1/models/{model}/versions/{number}/statements", tags=["registry"])
    def statements(model: str, number: Annotated[int, Path(ge=1, lt=2**31)]) -> list[StatementView]:
        """What is said about a version: parity, cost, provenance, gates."""
        registry = open_registry()
        version = registry.resolve(Reference(model, number=number))
        return [
            StatementView(
                kind=statement.kind, at=statement.at, by=statement.by, body=dict(statement.body)
            )
            for statement in registry.statements(version)
        ]

    @app.get("/api/v1/models/{model}/history", tags=["registry"])
    def history(model: str) -> list[EventView]:
        """What happened to a model, the latest first."""
        events = open_registry().history(model)
        return [
            EventView(
                kind=event.kind,
                at=event.at,
                by=event.by,
                number=event.number,
                alias=event.alias,
                from_number=event.from_number,
                to_number=event.to_number,
                reason=event.reason,
                key=event.key,
                from_value=event.from_value,
                to_value=event.to_value,
            )
            for event in sorted(events, key=lambda event: event.at, reverse=True)
        ]


def _version_view(version: Version) -> VersionView:
    return VersionView(
        model=version.model,
        number=version.number,
        digest=version.digest,
        pushed_at=version.pushed_at,
        pushed_by=version.pushed_by,
        gates=version.gates,
    )
