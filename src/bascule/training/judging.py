"""Champion and challenger: who wins, at which level; the verdicts that are kept.

A champion is compared with every challenger in turn, on rows of which later ones share some. So the
k-th comparison errs at most with probability `ERROR` * 6 / (pi k)^2, and all of them together at
most with `ERROR`, for any number of them and any dependence (Bonferroni with summable weights). The
count begins anew with each champion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule.registry import ModelRegistry

CHALLENGE = "challenge"
"""The kind of the statement that keeps a verdict beside its challenger."""
ERROR = 0.05
"""The promise: so often at most, while a champion stays, a challenger wins that is not better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison came to.

    Attributes:
        wins: Whether the challenger takes the champion's place.
        sentence: Why, for people.
    """

    wins: bool
    sentence: str


def confidence_of_look(look: int) -> float:
    """The confidence of the two-sided interval of the `look`-th comparison, from 1 on."""
    return 1 - 2 * ERROR * 6 / (math.pi * look) ** 2


def judged(
    challenger: str, champion: str, lower: float | None, note: str, *, margin: float, passes: bool
) -> Verdict:
    """The verdict.

    Args:
        challenger: Its name.
        champion: Its name; empty where there is none.
        lower: The lower end of the interval of the difference, better when larger; None where the
            two could not be compared.
        note: What was compared, or why it could not be.
        margin: See `Pipeline.margin`.
        passes: Whether the challenger has passed its gates.
    """
    if not passes:
        return Verdict(False, f"{challenger} loses: its gates have failed")
    if not champion:
        return Verdict(True, f"{challenger} wins: there is no champion yet")
    if lower is None:
        return Verdict(False, f"{challenger} loses to {champion}: {note}")
    if lower > -margin:
        how = f"not worse by {margin:g}" if margin else "better"
        return Verdict(True, f"{challenger} wins over {champion}: it is {how}: {note}")
    return Verdict(False, f"{challenger} loses to {champion}: it is not shown to be better: {note}")


def challenges_of(registry: ModelRegistry, model: str) -> list[dict[str, Any]]:
    """The verdicts on the versions of a model, the latest first: the bodies of their statements."""
    kept = [
        {**statement.body, "at": statement.at}
        for version in registry.versions(model)
        for statement in registry.statements(version, CHALLENGE)
    ]
    return sorted(kept, key=lambda body: str(body["at"]), reverse=True)
