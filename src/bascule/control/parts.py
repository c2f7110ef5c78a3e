"""What the settings choose for a control process. Importing it loads neither SQL nor HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.monitoring import Terms

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bascule.catalogue import Catalogue, Requests
    from bascule.control.people.sessions import Sessions
    from bascule.control.shown import SettingsShown
    from bascule.endpoints import EndpointStore
    from bascule.fleet import Fleet
    from bascule.jobs import JobRunner
    from bascule.monitoring.alerts import AlertStore
    from bascule.monitoring.reviews import ReviewRule
    from bascule.registry import CatalogueKeys, Registry
    from bascule.release.rollouts import Cohort, Rollout, Rollouts, Stage
    from bascule.serving.transports import Tls

    CountOutcomes = Callable[[Rollout, Sequence[Stage], datetime], Sequence[Cohort]]
    """The cohorts of a rollout, with the newest truths: given its stages, and now."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the settings choose for a control process; what is None, this one lacks.

    Attributes:
        open_registry: Opens the registry when it is first asked for; one that is away is answered
            503 then, and no reason not to serve.
        open_keys: Opens the keys of callers, in the catalogue.
        keys_stale_s: How long keys hold that cannot be read again.
        check_signature: Raises `Untrusted` for a bundle that no required key has signed.
        tls: What connections are encrypted with; None for not at all.
        allowed_hosts: Names that are answered; see `serving.transports.hosts`.
        open_requests: Opens what keeps answers for `Idempotency-Key`; without it that is refused.
        open_endpoints: Opens the endpoints in the catalogue.
        open_catalogue: Opens the catalogue, where rollouts are.
        outcome_cohorts: Counts the outcomes of a rollout; see `CountOutcomes`.
        rollout_defaults: Fields of requests for rollouts, from the settings.
        prepare_rollout: Fixes the scales of a rollout's guards; see `preparing.prepare`.
        open_rollouts: Opens what deploys when a followed alias is moved.
        home: Where outcomes are kept.
        open_alerts: Opens the alerts, in the catalogue.
        open_jobs: Opens what runs jobs, each in a process of its own.
        callbacks: The addresses that callers may name for a message at the end.
        places: Where batch jobs of callers with keys may read and write.
        sessions: The sessions of people, in the catalogue.
        shown: What the settings say, without secrets.
        add_console: Adds the pages for people to the application; None for none.
        protected: Acts that take a second person; see `settings.AuditSettings`.
        approval_lasts: How long such an act waits for the second person.
        usage: Projects, and what usage costs.
        review_rules: By model, which of its answers people review.
        open_fleet: Opens the devices and what they are offered.
    """

    open_registry: Callable[[], Registry]
    open_keys: Callable[[], CatalogueKeys]
    keys_stale_s: float
    check_signature: Callable[[Path], None]
    tls: Tls | None = None
    allowed_hosts: tuple[str, ...] = ()
    open_requests: Callable[[], Requests] | None = None
    open_endpoints: Callable[[], EndpointStore] | None = None
    open_catalogue: Callable[[], Catalogue] | None = None
    outcome_cohorts: CountOutcomes | None = None
    rollout_defaults: Mapping[str, Any] | None = None
    prepare_rollout: Callable[[Rollout], Rollout] | None = None
    open_rollouts: Callable[[], Rollouts] | None = None
    home: Path | None = None
    open_alerts: Callable[[], AlertStore] | None = None
    open_jobs: Callable[[], JobRunner] | None = None
    callbacks: Sequence[str] = ()
    places: Sequence[str] = ()
    sessions: Sessions | None = None
    shown: SettingsShown | None = None
    add_console: Callable[[FastAPI], None] | None = None
    protected: Sequence[str] = ()
    approval_lasts: timedelta = timedelta(days=1)
    usage: Terms = field(default_factory=Terms)
    review_rules: Mapping[str, ReviewRule] = field(default_factory=dict)
    open_fleet: Callable[[], Fleet] | None = None
