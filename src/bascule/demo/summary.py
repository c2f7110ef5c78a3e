"""What the demo comes to: the facts, and whether every promise was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bascule.demo.rollouts import Attempt
from bascule.demo.table import Scored


@dataclass(frozen=True, slots=True)
class Summary:
    """The facts of one run.

    Attributes:
        parity: The largest difference of the compiled model from the fitted one.
        requests: Flights that were asked about over HTTP, one a request.
        errors: Those without an answer, or with another status than 200.
        wrong: Answers that are not the bundle's own.
        original_per_s: Rows a second of the fitted pipeline, in process, one at a time.
        start_s: From starting the server until it was ready.
        joined: Replayed predictions that the ledger has with their outcome.
        replayed: Rows of the replay.
        months_with_drift: Months of the replay in which a column raised an alarm.
        rollouts: What became of each version that was tried on live traffic.
        scored: The year as a table that was scored in one batch job.
        seconds: The whole story.
    """

    parity: float
    parity_held: bool
    gates_passed: bool
    version: str
    requests: int
    errors: int
    wrong: int
    requests_per_s: float
    original_per_s: float
    times_faster: float
    p50_ms: float
    p99_ms: float
    server_cpu_s: float
    client_cpu_s: float
    start_s: float
    roc_auc: float
    joined: int
    replayed: int
    months_with_drift: int
    rollouts: Sequence[Attempt]
    scored: Scored
    seconds: float

    @property
    def all_joined(self) -> bool:
        """Whether no prediction of the replay lacks its outcome."""
        return self.joined == self.replayed

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        is_right = not self.errors and not self.wrong and self.all_joined
        as_promised = all(one.held for one in self.rollouts)
        is_right = is_right and self.scored.is_once
        return self.parity_held and self.gates_passed and is_right and as_promised
