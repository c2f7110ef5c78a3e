"""The control API: the registry, keys, the server's health and counters, and its documentation.

What routes do alike is in `conventions`, `idempotency`, `problems` and `described`; rights are in
`rights`. It binds to the loopback address unless another is set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bascule.control import operations as of_server
from bascule.control.answers import Counted, Health, Server, Worker, picked
from bascule.control.api.acts import Acts
from bascule.control.api.context import ControlContext
from bascule.control.api.described import describe
from bascule.control.api.documentation import add_documentation
from bascule.control.api.headers import WithHeaders
from bascule.control.api.problems import bug, problem_of
from bascule.control.api.rights import Caller, authorise_of, route_of, serves
from bascule.control.api.routes.alerts import add_alerts
from bascule.control.api.routes.approvals import add_approvals
from bascule.control.api.routes.batch import add_batch
from bascule.control.api.routes.configuration import add_configuration
from bascule.control.api.routes.counters import add_load
from bascule.control.api.routes.endpoints import add_endpoints
from bascule.control.api.routes.fleet import add_fleet
from bascule.control.api.routes.history import add_history
from bascule.control.api.routes.inferences import add_inferences
from bascule.control.api.routes.jobs import Submissions, add_jobs
from bascule.control.api.routes.keys import add_keys
from bascule.control.api.routes.ledger import add_ledger
from bascule.control.api.routes.monitoring import add_monitoring
from bascule.control.api.routes.outcomes import add_outcomes
from bascule.control.api.routes.privacy import add_privacy
from bascule.control.api.routes.registry_reads import add_registry_reads
from bascule.control.api.routes.registry_writes import add_registry_writes
from bascule.control.api.routes.reviews import add_reviews
from bascule.control.api.routes.rollouts import add_rollouts
from bascule.control.api.routes.services import FindService, add_services
from bascule.control.api.routes.sessions import add_sessions
from bascule.control.api.routes.settings import add_settings
from bascule.control.api.routes.usage import add_usage
from bascule.control.link import ServerLink
from bascule.control.parts import Parts
from bascule.control.recorded import RecordedPredictions
from bascule.core import VERSION, BasculeError, Invalid
from bascule.jobs import Task
from bascule.security import Action, vault
from bascule.serving.telemetry import prometheus_text
from bascule.serving.transports import Authenticator

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.batch import Status
    from bascule.catalogue import Requests
    from bascule.jobs import JobRunner, Scheduled, Schedules


def control_app(
    server: ServerLink, find: FindService, guard: Authenticator | None, parts: Parts
) -> FastAPI:
    """The application.

    Args:
        server: The server that it speaks for.
        find: Finds the version that a reference means, when one is to be loaded.
        guard: Checks keys; with None every caller may read, and only this machine change something.
        parts: What the settings choose.
    """
    app = FastAPI(
        title="Bascule control API",
        version=VERSION,
        description="What is registered, served and counted; changes of both; keys.",
        # `describe` says what they are; this keeps FastAPI from describing errors in its own shape.
        responses={"4XX": {}},
        openapi_url=None,  # all of it is in `documentation`
    )
    asks_for_keys = guard is not None
    authorise = authorise_of(guard, parts.protected)
    context = ControlContext(
        server, parts, authorise, asks_for_keys, RecordedPredictions(parts.home)
    )
    open_requests = parts.open_requests or _no_requests
    acts = Acts(parts.open_catalogue, context.approvals, parts.protected)
    app.router.route_class = route_of(guard, open_requests, context.find_session, acts)

    def push(file: FilePath, model: str, user: str) -> int:
        if parts.open_jobs is None:
            return context.registry().import_archive(file, by=user, model=model).number
        asked = {"file": str(file), "model": model}
        task = Task(kind="push", input=asked, title=f"the push to {model}", by=user)
        return int(context.jobs().answer(task)["number"])

    def authorise_names(request: Request, action: Action, model: str) -> Caller:
        if (parts.rollout_defaults or {}).get("needs_approval"):
            authorise(request, "approve", model)
        return authorise(request, action, model)

    def check_may_end(request: Request, version: str) -> None:
        if parts.open_endpoints is not None:
            context.endpoints(partial(authorise, request, "approve")).check_may_end(version)

    app.add_middleware(WithHeaders)
    _add_errors(app)
    _add_server(app, server, lambda: _batch_metrics(parts.open_jobs, context.schedules))
    add_load(app, server)
    add_services(app, server, find, authorise_names)
    add_registry_reads(app, parts.open_registry, authorise)
    add_registry_writes(app, parts.open_registry, push, check_may_end)
    add_alerts(app, context.alerts, authorise)
    add_keys(app, context.keys)
    add_history(app, context.catalogue, authorise)
    add_approvals(app, context.approvals, guard, context.sessions, authorise)
    add_sessions(app, context.sessions, authorise, asks_for_keys=asks_for_keys)
    add_settings(app, parts.shown)
    add_outcomes(app, parts.home)
    add_reviews(app, context.reviews)
    add_monitoring(app, context.jobs, parts.open_registry)
    places = parts.places if asks_for_keys else None
    submissions = Submissions(context.jobs, authorise, places)
    add_batch(app, submissions, context.schedules)
    add_jobs(app, submissions)
    add_inferences(app, context, submissions)
    add_ledger(app, context.predictions, authorise)
    add_usage(app, context)
    add_privacy(app, context.jobs, authorise)
    add_endpoints(app, server, context.endpoints, authorise)
    add_rollouts(app, context.rollouts, authorise)
    add_fleet(app, context.fleet, authorise, asks_for_keys=asks_for_keys)
    add_configuration(app, context.books, authorise, context.places)
    describe(app, asks_for_keys=asks_for_keys)
    add_documentation(app)
    app.state.control = context
    return app


def _no_requests() -> Requests:
    raise Invalid("Idempotency-Key: this API keeps no answers", hint="send the request without it")


def _add_errors(app: FastAPI) -> None:
    def answered(request: Request, error: Exception) -> Response:
        # What a bug was is logged by the server that runs this.
        return problem_of(error, request.url.path) or bug(request.url.path)

    for kind in (BasculeError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answered)


def _batch_metrics(
    open_jobs: Callable[[], JobRunner] | None, open_schedules: Callable[[], Schedules]
) -> str:
    """Runs of this machine and schedules, as text for Prometheus."""
    if open_jobs is None:
        return ""
    from bascule.batch import Runs, batch_text

    runs: Sequence[Status] = ()
    known: Sequence[Scheduled] = ()
    with suppress(BasculeError):  # without the catalogue, other counters are served
        runs, known = Runs(open_jobs()).of_host(), open_schedules().list()
    return batch_text(runs, known, datetime.now(UTC))


def _add_server(app: FastAPI, link: ServerLink, batch_metrics: Callable[[], str]) -> None:
    @serves(app, of_server.HEALTH, responses={503: {"model": Health}})
    def health(response: Response) -> Health:
        """Ready when every worker is alive."""
        ready = all(status.alive for status in link.statuses())
        response.status_code = 200 if ready else 503
        secrets: Literal["fresh", "stale"] = "stale" if vault.problem() else "fresh"
        return Health(live=True, ready=ready, name="bascule", secrets=secrets)

    @serves(app, of_server.METRICS, response_class=Response)
    def metrics() -> Response:
        """The counters of all workers, runs and schedules in the Prometheus text format."""
        text = prometheus_text(link.labels, link.totals(), link.pulse(), link.arm_totals())
        return Response(text + batch_metrics(), media_type="text/plain; version=0.0.4")

    @serves(app, of_server.SERVER)
    def server() -> Server:
        """The workers, and what is served."""
        served = {(service.model, service.version) for service in link.services}
        services = [
            Counted(
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
        workers = [picked(Worker, status) for status in link.statuses()]
        host, port = link.address
        return Server(
            version=VERSION,
            host=host,
            port=port,
            workers=workers,
            services=services,
        )
