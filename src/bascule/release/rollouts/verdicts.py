"""What a rollout says to a controller of others that moves the shares: promote, hold or abort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bascule.release.rollouts.plan import StoredRollout

Word = Literal["promote", "hold", "abort"]
_WORDS: Mapping[str, Word] = {
    "promoted": "promote",
    "passed": "promote",
    "baking": "promote",
    "aborted": "abort",
}


@dataclass(frozen=True, slots=True)
class RolloutVerdict:
    """The word, the sentence of the latest look, and its evidence.

    Attributes:
        verdict: `hold` while there is no proof either way, also before the first look.
        reason: The sentence.
        evidence: The rollout, its candidate and its share, and the evidence of harm by guard
            (natural logarithms of E-values).
    """

    verdict: Word
    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)


def verdict_of(stored: StoredRollout | None, endpoint: str) -> RolloutVerdict:
    """The verdict on the latest rollout of an endpoint; `hold` where there was none."""
    if stored is None:
        return RolloutVerdict("hold", f"{endpoint} has had no rollout")
    rollout, latest = stored.rollout, stored.latest
    evidence: dict[str, object] = {"rollout": rollout.id, "candidate": rollout.candidate}
    if latest is None:
        return RolloutVerdict("hold", f"the rollout of {rollout.candidate} has not begun", evidence)
    evidence |= {"share_percent": latest.shares.candidate_percent, "log_e": latest.log_e}
    return RolloutVerdict(_WORDS.get(stored.state, "hold"), latest.sentence, evidence)
