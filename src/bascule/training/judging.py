"""Champion and challenger: who wins, at which level; the verdicts that are kept.

A champion is compared with every challenger in turn, on rows of which later ones share some. So the
k-th comparison errs at most with probability `ERROR` * 6 / (pi k)^2, and all of them together at
most with `ERROR`, for any number of them and any dependence between them (Bonferroni with summable
weights). The count begins anew with each champion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule.registry import ModelRegistry
    from bascule.training.pipelines import Pipeline

CHAMPION = "champion"
"""The alias of the version that a challenger must beat, where a pipeline has no endpoint."""
CHALLENGE = "challenge"
"""The kind of the statement that keeps a verdict beside its challenger."""
REFIT = "refit"
"""That beside a version that was fitted to all rows after another one, `judged`, had won."""
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
    allowed = f", and {margin:g} worse is allowed" if margin else ""
    if lower > -margin:
        return Verdict(True, f"{challenger} wins over {champion}: {note}{allowed}")
    return Verdict(False, f"{challenger} loses to {champion}: {note}{allowed}")


def feedback_of(pipeline: Pipeline, rows: Mapping[str, Any]) -> str:
    """What the answers of earlier versions did to the rows of a run; may be empty.

    Truths that follow from answers confirm them: a model that blocks what it fears sees no proof
    that it was wrong (performative prediction, Perdomo et al. 2020, section 2).
    """
    held_back = rows.get("held_back") or 0
    if rows.get("is_clean"):
        return f"{held_back:,} held-back rows alone train and judge"
    if not (pipeline.changes_outcomes or pipeline.holdback):
        return ""
    few = f"{held_back:,} held-back rows are too few" if held_back else "no row is held back"
    return f"danger: answers change the truths that train and judge, and {few}"


def refits_of(registry: ModelRegistry, model: str) -> dict[str, str]:
    """Of the versions that were judged, those that were fitted again: what each has become."""
    return {
        str(statement.body["judged"]): str(version)
        for version in registry.versions(model)
        for statement in registry.statements(version, REFIT)
    }


def winner_over(champion: str, challenges: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest verdict by which a challenger has won over a champion; `""` for no champion."""
    won = (body for body in challenges if body["wins"] and body["champion"] == champion)
    return next(won, None)


def challenges_of(registry: ModelRegistry, model: str) -> list[dict[str, Any]]:
    """The verdicts on the versions of a model, the latest first: the bodies of their statements."""
    kept = [
        {**statement.body, "at": statement.at}
        for version in registry.versions(model)
        for statement in registry.statements(version, CHALLENGE)
    ]
    return sorted(kept, key=lambda body: str(body["at"]), reverse=True)
