"""What several pages read: the server beside this process, and the endpoints as it serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bascule.console.session import Session
from bascule.core import BasculeError, Invalid, NotFound, Reference, Unavailable

if TYPE_CHECKING:
    from bascule.control import ControlContext, ServerLink
    from bascule.endpoints import Endpoint
    from bascule.jobs import Job, Scheduled
    from bascule.monitoring.alerts import Alert
    from bascule.release.rollouts import StoredRollout
    from bascule.serving.telemetry import ArmTotals

_MAX_SUGGESTED = 200
_MAX_RECENT = 50
_LOADING = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class ServedFacts:
    """A version that is served now: what was counted for it since the server started."""

    model: str
    version: str
    requests: int
    errors: int
    is_planned: bool

    @property
    def error_share(self) -> float | None:
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server beside this process; without one, everything is empty.

    Attributes:
        is_there: Whether a server runs.
        workers: How many workers it has.
        alive: How many of them answer.
        restarts: How often workers were started again.
        served: What it serves.
        plans: By endpoint, the number of the plan that it serves.
        counted: By endpoint and plan: requests and errors of its arms, shadows aside.
        buckets: By version, `MODEL/NUMBER`: its answers by duration; see `BUCKETS_S`.
    """

    is_there: bool = False
    workers: int = 0
    alive: int = 0
    restarts: int = 0
    served: Sequence[ServedFacts] = ()
    plans: Mapping[str, int] = field(default_factory=dict)
    counted: Mapping[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    buckets: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`ready`, `down` or `none`."""
        if not self.is_there:
            return "none"
        return "ready" if self.alive == self.workers else "down"


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """An endpoint, and how this server serves it.

    Attributes:
        endpoint: With its current plan.
        rollout: The latest one, if it is under way or of the last day; None for none.
        served_plan: The number of the plan that the server serves; 0 for none.
        has_server: Whether a server runs beside this process.
        requests: That the server has counted for the current plan, shadows aside.
        errors: Of them, those that the model failed.
        is_new: Whether the plan was made so recently that servers may still load its versions.
    """

    endpoint: Endpoint
    rollout: StoredRollout | None
    served_plan: int
    has_server: bool
    requests: int
    errors: int
    is_new: bool = False

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def state(self) -> str:
        """`live`, `loading` (the plan is new), `behind` (an older one is served), `not served`.

        Or `planned`, with no server.
        """
        if not self.has_server:
            return "planned"
        is_live = self.served_plan >= self.endpoint.current.plan.number
        if self.is_new and not is_live:
            return "loading"
        if not self.served_plan:
            return "not served"
        return "live" if is_live else "behind"

    @property
    def error_share(self) -> float | None:
        return self.errors / self.requests if self.requests else None


def server_facts(server: ServerLink) -> ServerFacts:
    """Read the server. One that does not answer now is `down`."""
    try:
        statuses = server.statuses()
        specs, plans = server.services, server.plans
    except Unavailable:
        return ServerFacts(is_there=True, workers=1)
    totals = {
        (label.model, label.version): total
        for label, total in zip(server.labels, server.totals(), strict=False)
    }
    served = []
    for one in specs:
        total = totals.get((one.model, one.version))
        errors = 0 if total is None else sum(n for s, n in total.by_status.items() if s >= 500)
        requests = 0 if total is None else total.requests
        served.append(ServedFacts(one.model, one.version, requests, errors, one.is_planned))
    return ServerFacts(
        is_there=bool(statuses), workers=len(statuses),
        alive=sum(one.alive for one in statuses), restarts=sum(one.restarts for one in statuses),
        served=served, plans={one.endpoint: one.number for one in plans},
        counted=_counted(server.arm_totals()),
        buckets={f"{model}/{version}": t.buckets for (model, version), t in totals.items()},
    )  # fmt: skip


def _counted(arms: Sequence[ArmTotals]) -> dict[tuple[str, int], tuple[int, int]]:
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for one in arms:
        if one.arm != "shadow":
            place = one.endpoint, one.plan_number
            requests, errors = found.get(place, (0, 0))
            found[place] = requests + one.requests, errors + one.errors
    return found


def endpoint_facts(
    endpoint: Endpoint,
    server: ServerFacts,
    rollout: StoredRollout | None,
    now: datetime | None = None,
) -> EndpointFacts:
    """How a server serves an endpoint; `now` is the time of the clock unless it is given."""
    age = (now or datetime.now(UTC)) - endpoint.current.made_at
    place = endpoint.name, endpoint.current.plan.number
    counted = server.counted.get(place, (0, 0))
    served = server.plans.get(endpoint.name, 0)
    return EndpointFacts(
        endpoint, rollout, served, server.is_there, *counted, is_new=age < _LOADING
    )


def endpoints_of(context: ControlContext, session: Session) -> list[Endpoint]:
    """The endpoints that a person may see; none where this server keeps none."""
    with suppress(NotFound):
        return [one for one in context.endpoints().endpoints() if session.allows("read", one.name)]
    return []


def recent_rollouts(context: ControlContext, session: Session) -> list[StoredRollout]:
    """The rollouts that ended in the last day, then those under way, that a person may see."""
    with suppress(NotFound):
        store, since = context.rollouts().store, datetime.now(UTC) - timedelta(days=1)
        latest = store.rollouts(latest=_MAX_RECENT)
        found = [one for one in latest if one.ended_at is not None and one.ended_at > since]
        found += store.active()
        return [one for one in found if session.allows("read", one.rollout.endpoint)]
    return []


def alerts_of(context: ControlContext, session: Session) -> list[Alert]:
    """The alerts that are not resolved and that a person may see, the latest change first."""
    with suppress(NotFound):
        found = context.alerts().alerts()
        return [one for one in found if session.allows("read", one.finding.model or "*")]
    return []


def schedules_of(context: ControlContext) -> Sequence[Scheduled]:
    """The schedules of batch jobs; none without a catalogue."""
    with suppress(NotFound):
        return context.schedules().list()
    return ()


def model_names(context: ControlContext, session: Session) -> list[str]:
    """The models that a person may read; none where this server has no registry."""
    with suppress(BasculeError):
        return [one for one in context.registry().model_names() if session.allows("read", one)]
    return []


def suggested_models(context: ControlContext, session: Session) -> list[str]:
    """Some of them, for fields that suggest a name."""
    return model_names(context, session)[:_MAX_SUGGESTED]


def job_of_person(context: ControlContext, session: Session, job: str) -> Job:
    """A job that a person submitted, or that anyone may see. Raises `NotFound`."""
    runner = context.jobs()
    found = runner.get(job)
    is_own = (found.by, found.key) == (session.subject, "")
    if runner.kinds[found.kind].is_private and not is_own:
        raise NotFound("this was asked for by another person", hint="start it again yourself")
    return found


def version_named(text: str) -> Reference:
    """A version of the registry by the name that a person wrote. Raises `Invalid` for a folder."""
    if text.startswith((".", "/", "~")) or text.endswith("/"):
        raise Invalid(f"version: {text!r} is a folder", hint="name a version: late/4")
    return Reference.parse(text)
