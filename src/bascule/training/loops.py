"""The loop of a model: its champion, what has challenged it, and what starts the next run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
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
        challenges: See `challenges_of`.
    """

    model: str
    endpoint: str
    champion: str
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
    own = [run for run in runs if run.pipeline == model]
    endpoint = next((run.endpoint for run in own if run.version), "")
    champion = ""
    if endpoint:
        plans = {stored.name: stored.current.plan for stored in endpoints.endpoints()}
        champion = plans[endpoint].current.version if endpoint in plans else ""
    else:
        with suppress(NotFound):
            champion = str(registry.resolve(f"{model}@{CHAMPION}"))
    return Loop(
        model=model, endpoint=endpoint, champion=champion, challenges=challenges, runs=own,
        triggers=[one for one in triggers if one.schedule.job["pipeline"] in ("", model)],
        rollouts=rollouts.rollouts(endpoint)[::-1] if endpoint else [],
    )  # fmt: skip
