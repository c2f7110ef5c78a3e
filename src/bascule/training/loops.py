"""The loop of a model: its champion, what has challenged it, and what starts the next run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bascule.core import NotFound
from bascule.training.judging import CHAMPION, challenges_of
from bascule.training.runs import Run

if TYPE_CHECKING:
    from bascule.endpoints import EndpointBook
    from bascule.jobs import Scheduled
    from bascule.registry import ModelRegistry
    from bascule.release.rollouts import RolloutBook, StoredRollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What is known of a model's training, the latest first.

    Attributes:
        endpoint: That its pipeline deploys to; empty for none.
        champion: What challengers are compared with; empty for none.
        feedback: What answers do to the rows of training; see `feedback_of`.
        challenges: See `challenges_of`.
    """

    model: str
    endpoint: str
    champion: str
    feedback: str
    challenges: Sequence[dict[str, Any]]
    runs: Sequence[Run]
    triggers: Sequence[Scheduled]
    rollouts: Sequence[StoredRollout]

    @property
    def sentence(self) -> str:
        """Where the model stands, in words."""
        where = f"endpoint {self.endpoint}" if self.endpoint else f"{self.model}@{CHAMPION}"
        return f"{self.champion or 'no version'} is the champion, by {where}"


def loop_of(
    model: str, runs: Sequence[Run], triggers: Sequence[Scheduled], registry: ModelRegistry,
    endpoints: EndpointBook, rollouts: RolloutBook,
) -> Loop:  # fmt: skip
    """Read the loop of a model, here or over a control API; raises `NotFound`.

    Runs, the latest first, and triggers are those of all pipelines.
    """
    challenges = challenges_of(registry, model)
    runs_of_model = [run for run in runs if run.pipeline == model]
    latest = next((run for run in runs_of_model if run.version), None)
    endpoint, champion = latest.endpoint if latest else "", ""
    plans = {stored.name: stored.current.plan for stored in endpoints.endpoints()}
    if not endpoint:
        try:
            champion = str(registry.resolve(f"{model}@{CHAMPION}"))
        except NotFound:  # runs of other machines are not known here, their endpoint is
            serving = (
                name for name in plans if plans[name].current.version.startswith(f"{model}/")
            )
            endpoint = next(serving, "")
    feedback = latest.feedback if latest else ""
    if plan := plans.get(endpoint):
        champion = plan.current.version
        if feedback and not plan.holdback_percent:
            feedback += f"; bascule endpoints set {endpoint} --holdback 2 holds some back"
    return Loop(
        model=model, endpoint=endpoint, champion=champion, feedback=feedback,
        challenges=challenges, runs=runs_of_model,
        triggers=[added for added in triggers if added.schedule.job["pipeline"] in ("", model)],
        rollouts=rollouts.rollouts(endpoint)[::-1] if endpoint else [],
    )  # fmt: skip
