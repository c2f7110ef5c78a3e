"""The routes about models in production: overview, drift, performance, callers; incidents, replays.

Each is measured in a process of its own, one at a time: it takes seconds of a processor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query
from pydantic import Field

from bascule.control import operations as of_server
from bascule.control.answers import Callers, Incident
from bascule.control.api.conventions import Moment, Taken
from bascule.control.api.rights import serves
from bascule.core import Invalid, Overloaded, check_name
from bascule.jobs import Task

if TYPE_CHECKING:
    from bascule.jobs import JobRunner
    from bascule.registry import Registry

_DAY_S = 86_400.0
_Days = Annotated[float, Query(gt=0, le=400, description="How far back")]
_Number = Annotated[int, Path(ge=1, lt=2**31)]
_CALLED_WITHIN = timedelta(days=30)


class Replay(Taken):
    """A prediction, and the version to ask."""

    id: Annotated[str, Field(min_length=1, max_length=512, description="The prediction id")]
    on: Annotated[str, Field(max_length=512, description="Default: the version that answered")] = ""


def add_monitoring(
    app: FastAPI, open_jobs: Callable[[], JobRunner], open_registry: Callable[[], Registry]
) -> None:
    """Add the routes to `app`."""
    measuring = threading.Lock()

    def report(kind: str, **asked: Any) -> dict[str, Any]:
        if not measuring.acquire(blocking=False):
            raise Overloaded(
                "another report is being measured", hint="retry later", retry_after_s=5
            )
        try:
            found: dict[str, Any] = open_jobs().answer(Task(kind=kind, input=asked))
            return found
        finally:
            measuring.release()

    @serves(app, of_server.MONITOR)
    def monitor(model: str, days: _Days = 7.0) -> dict[str, Any]:
        """Health, drift, truths and the ledger, as `bascule monitor --json` has them."""
        return report("monitor", model=check_name(model), since_s=days * _DAY_S)

    @serves(app, of_server.DRIFT)
    def drift(model: str, days: _Days = 30.0) -> dict[str, Any]:
        """Drift of production against the baseline, as `bascule drift --json` has it."""
        return report("drift", model=check_name(model), since_s=days * _DAY_S)

    @serves(app, of_server.PERFORMANCE)
    def performance(model: str, days: _Days = 30.0) -> dict[str, Any]:
        """Performance on the truths that came, as `bascule performance --json` has it."""
        return report("performance", model=check_name(model), since_s=days * _DAY_S)

    @serves(app, of_server.CALLERS)
    def callers(model: str, number: _Number) -> Callers:
        """Who called a version since its deprecation, or in the last 30 days."""
        version = open_registry().resolve(f"{model}/{number}", retired=True)
        said = version.deprecated
        since = datetime.now(UTC) - _CALLED_WITHIN if said is None else said.at
        found = report("callers", model=str(version), since=since.isoformat())
        return msgspec.convert(found, Callers)

    @serves(app, of_server.INCIDENT)
    def incident(endpoint: str, since: Moment, until: Moment | None = None) -> Incident:
        """The draft of a blameless postmortem, from history and ledger."""
        end = until or datetime.now(UTC)
        if since >= end:
            raise Invalid(f"since: {since.isoformat()} is not before {end.isoformat()}")
        times = {"since": since.isoformat(), "until": end.isoformat()}
        return Incident(**report("incident", endpoint=check_name(endpoint), **times))

    @serves(app, of_server.DOCUMENT)
    def document(model: str, number: _Number, document: str) -> dict[str, Any]:
        """A compliance document from evidence, in every format, and what it lacks."""
        return report("document", model=f"{check_name(model)}/{number}", document=document)

    @serves(app, of_server.REPLAY)
    def replay(wanted: Replay) -> dict[str, Any]:
        """Ask a recorded request again, as `bascule replay --json` does; shows its rows."""
        return report("replay", id=wanted.id, on=wanted.on)
