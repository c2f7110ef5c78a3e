"""Attacks a model to see which rows it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.statements import MembershipAudit
from bascule.core import Columns, Invalid
from bascule.release.gates import Measured
from bascule.release.measure import answers_of, rows_to_judge
from bascule.release.privacy_claims import claim_of
from bascule.stats import epsilon_bound

if TYPE_CHECKING:
    from bascule.bundle import Bundle

FEWEST_ROWS = 100
_TINY = 1e-12


def audit_membership(
    bundle: Bundle, members: Any, others: Any, *, delta: float | None, confidence: float, seed: int
) -> MembershipAudit:
    """How well the loss of a row tells whether the model was trained on it.

    The bound holds where a coin of its own put each row into the training or not; of a table that
    was cut once by chance it is close. A cut by time is no coin.

    Args:
        bundle: What to attack, through its own answers.
        members: `(X, y)` that it was trained on.
        others: `(X, y)` from the same source that it was not trained on.
        delta: That the bound is for; None for that of the claim, or else 1e-5.
        confidence: Of the bound.
        seed: Of the draw of as many of the one as of the other, by coins.

    Raises:
        Invalid: There are too few rows, or the model is for no task with a loss of a row.
    """
    losses = []
    for what, pair in (("members", members), ("others", others)):
        judged = rows_to_judge(bundle, pair)
        if judged is None or isinstance(judged, Measured) or judged[1] is None:
            raise Invalid(f"{what}: the model does not take these rows", hint="pass (X, y)")
        losses.append(_losses(bundle, answers_of(bundle, judged[0]), judged[1]))
    draw = np.random.default_rng(seed)
    rows = 2 * min(map(len, losses)) * 9 // 10  # so that coins hardly ever ask for more than all
    if rows < FEWEST_ROWS:
        raise Invalid(
            f"{rows} rows are too few for an audit", hint=f"give at least {FEWEST_ROWS} of each"
        )
    coins = draw.random(rows) < 0.5
    scores = np.empty(rows)
    for is_member, loss in zip((True, False), losses, strict=True):
        places = np.flatnonzero(coins == is_member)[: len(loss)]
        scores[places] = -draw.choice(loss, len(places), replace=False)
    claim = claim_of(bundle)
    used = delta if delta is not None else claim.delta if claim else 1e-5
    return MembershipAudit(
        epsilon_bound=epsilon_bound(coins, scores, delta=used, confidence=confidence),
        confidence=confidence, delta=used, rows=rows,
    )  # fmt: skip


def _losses(bundle: Bundle, answers: Columns, truth: NDArray[Any]) -> NDArray[np.float64]:
    """Of each row: minus the logarithm of the probability of its class, or the squared error."""
    probabilities = answers.get("probabilities")
    if bundle.task == "classification" and probabilities is not None:
        place = {value: index for index, value in enumerate(bundle.classes or ())}
        chosen = np.array([place[value] for value in truth.tolist()])
        likely = probabilities[np.arange(len(chosen)), chosen]
        losses: NDArray[np.float64] = -np.log(np.maximum(likely, _TINY))
        return losses
    if bundle.task == "regression":
        values = next(iter(answers.values()))
        squares: NDArray[np.float64] = np.square((values - truth).astype(np.float64))
        sums: NDArray[np.float64] = squares.reshape(len(truth), -1).sum(axis=1)
        return sums
    raise Invalid(
        "the audit needs the probabilities of a classifier, or a regression",
        hint="pack a model that answers one of the two",
    )
