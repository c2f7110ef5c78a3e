"""How many answers stay right when rows are changed a little: by chance, by an attacker, for sure.

| in brackets | rows are changed by | the share is |
|---|---|---|
| `noise=S` | normal noise of S deviations, `_DRAWS` times | an upper bound |
| `missing=P` | leaving each value out with probability P, `_DRAWS` times | an upper bound |
| `out_of_range=P` | moving each number, with probability P, one range beyond its range | the same |
| `linf=R`, `l2=R` | HopSkipJump (Chen, Jordan, Wainwright 2020), which sees labels | the same |
| `certified_accuracy[l2=R]` | any change of that length | a lower bound, of a smoothed model |

A row counts when its answer is right, and right again in every state that was tried: what was not
tried may still change it. The certificate is of the model that answers with the majority of the
bundle's answers under normal noise of deviation R (Cohen, Rosenfeld and Kolter 2019), not of the
bundle's own single answers.

Lengths are in standard deviations of each column (of each place of a tensor) over the held-out
rows. Numbers with a fraction are moved; categories, whole numbers and texts stay.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.core import Columns, Invalid, Signature
from bascule.metrics import Labelled, wilson_interval
from bascule.monitoring.performance import Reference
from bascule.release.conditions import Change
from bascule.release.gates import Measured
from bascule.release.states import in_state, movable
from bascule.stats import exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle

Floats = NDArray[np.float64]

_SEED = 0
_DRAWS, _MAX_ROWS = 10, 2_000
_FEW_ROWS = 100
"""Rows that are attacked, or certified."""
_ATTACK_STEPS, _MOST_AT_ONCE = 20, 500
_GUESSES, _SAMPLES, _ALPHA = 100, 1_000, 0.001
"""Of a certificate: draws that choose the class, draws that count it, and the chance that the bound
of one row is wrong."""


class Robustness:
    """Held-out rows of a classifier, to be changed.

    Args:
        bundle: What is measured.
        columns: The rows, in the signature's dtypes.
        truth: The label of each row.
        ask: The program's answers for rows.
    """

    def __init__(
        self,
        bundle: Bundle,
        columns: Columns,
        truth: NDArray[Any],
        ask: Callable[[Columns], Columns],
    ) -> None:
        self._signature, self._reference = bundle.signature, Reference(bundle)
        self._columns, self._truth, self._ask = columns, truth, ask
        self._answers = self._labelled(columns, truth)

    def of(self, change: Change) -> Measured:
        """The share of rows that are answered right however they were changed."""
        if change.kind in ("linf", "l2"):
            return self._attacked(change)
        rows = self._sample(_MAX_ROWS)
        right = self._right(rows)
        for draw in range(_DRAWS):
            changed = in_state(self._columns, self._signature, change.kind, change.size, seed=draw)
            answers = self._labelled(take(changed, rows), self._truth[rows])
            right &= answers.truth == answers.answers
        return _share(right, f"right in each of {_DRAWS} draws; an upper bound of robustness")

    def certified(self, radius: float) -> Measured:
        """The share of rows for which the smoothed model is proven right within a radius.

        Algorithm CERTIFY with the radius as sigma: the radius that is proven is sigma times the
        normal quantile of a lower bound of the majority's share, which has to be at least 1.
        """
        numbers = MovingNumbers(self._columns, self._signature)
        rows, random = self._sample(_FEW_ROWS), np.random.default_rng(_SEED)
        certified = np.zeros(len(rows), bool)
        for place, row in enumerate(rows.tolist()):
            start = numbers.points[row]
            noise = random.normal(scale=radius, size=(_GUESSES + _SAMPLES, len(start)))
            labels = self._labels(numbers.rows(row, start + noise))
            top = int(np.bincount(labels[:_GUESSES]).argmax())
            votes = int((labels[_GUESSES:] == top).sum())
            share, _ = exact_interval(votes, _SAMPLES, confidence=1 - 2 * _ALPHA)
            certified[place] = share >= NormalDist().cdf(1) and top == self._answers.truth[row]
        return _share(
            certified,
            f"of the model that answers with the majority under noise of {radius:g} deviations, "
            f"{_SAMPLES:,} draws a row, each row wrong with probability {_ALPHA:g}; a lower bound",
        )

    def _attacked(self, change: Change) -> Measured:
        numbers, rows = MovingNumbers(self._columns, self._signature), self._sample(_FEW_ROWS)
        right = self._right(rows)
        for place in np.flatnonzero(right).tolist():
            right[place] = not self._is_evaded(int(rows[place]), numbers, change)
        return _share(
            right,
            f"not evaded by HopSkipJump in {_ATTACK_STEPS} steps a row, seeded; an upper bound of "
            "robustness",
        )

    def _is_evaded(self, row: int, numbers: MovingNumbers, change: Change) -> bool:
        """Whether a row that the attack asks for, within the length, has another answer."""
        answer, start, is_evaded = self._answers.answers[row], numbers.points[row], False
        norm = np.inf if change.kind == "linf" else 2

        def length(points: Floats) -> Floats:
            steps = (points - start) * numbers.moves[row]
            return np.asarray(np.linalg.norm(steps, ord=norm, axis=1), np.float64)

        def ask(points: NDArray[Any]) -> Floats:
            """Two classes: the answer of the row, and any other."""
            nonlocal is_evaded
            exact = np.asarray(points, np.float64)
            others = self._labels(numbers.rows(row, exact)) != answer
            is_evaded |= bool((others & (length(exact) <= change.size)).any())
            return np.column_stack([~others, others]).astype(np.float64)

        # From the nearest row with another answer: ART would draw its starts without a seed.
        others = numbers.points[self._answers.answers != answer]
        if not len(others):
            return False
        nearest = others[[length(others).argmin()]]
        ends = float(numbers.points.min() - change.size), float(numbers.points.max() + change.size)
        _hop_skip_jump(ask, start[None], nearest, ends, norm)
        return is_evaded

    def _labels(self, columns: Columns) -> NDArray[np.int64]:
        """The place of the class that answers each row."""
        nothing = np.full(len(next(iter(columns.values()))), None, object)
        return np.asarray(self._labelled(columns, nothing).answers, np.int64)

    def _labelled(self, columns: Columns, truth: NDArray[Any]) -> Labelled:
        return self._reference.labelled(truth, self._ask(columns))

    def _right(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        return np.asarray(self._answers.truth[rows] == self._answers.answers[rows])

    def _sample(self, most: int) -> NDArray[np.intp]:
        """The same rows every time."""
        count = len(self._truth)
        random = np.random.default_rng(_SEED)
        return np.sort(random.choice(count, min(most, count), replace=False))


class MovingNumbers:
    """The numbers of rows that may move, in standard deviations.

    Attributes:
        moves: Not a constant one, nor one that is missing in the row. Shape (rows, numbers).
        points: The numbers that move; 0 for the others. Shape (rows, numbers).
    """

    def __init__(self, columns: Columns, signature: Signature) -> None:
        """Raises `Invalid` where no column holds fractions."""
        parts = {
            field.name: moving
            for field in signature.inputs
            if (moving := movable(columns[field.name], field)) is not None
        }
        if not parts:
            raise Invalid(
                "no column of the model holds fractions", hint="ask for [missing=0.05] instead"
            )
        self._columns, self._names = columns, list(parts)
        flat = [values.reshape(len(values), -1) for values, _ in parts.values()]
        self._spreads = np.concatenate([spread.reshape(-1) for _, spread in parts.values()])
        numbers = np.concatenate(flat, axis=1)
        self.moves = np.isfinite(numbers) & (self._spreads > 0)
        self.points = np.divide(
            numbers, self._spreads, out=np.zeros_like(numbers), where=self.moves
        )

    def rows(self, row: int, points: Floats) -> Columns:
        """A row as often as there are points, with the numbers of these points."""
        changed = {
            name: np.repeat(values[row : row + 1], len(points), axis=0)
            for name, values in self._columns.items()
        }
        steps, start = (points - self.points[row]) * self.moves[row] * self._spreads, 0
        for name in self._names:
            values = changed[name]
            width = values[0].size
            step = steps[:, start : start + width].reshape(values.shape)
            changed[name] = (values.astype(np.float64) + step).astype(values.dtype)
            start += width
        return changed


def _hop_skip_jump(
    ask: Callable[[NDArray[Any]], Floats],
    start: Floats,
    other: Floats,
    ends: tuple[float, float],
    norm: float,
) -> None:
    """ART's attack on one row, from another row."""
    try:
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import BlackBoxClassifier
    except ImportError:
        raise Invalid("attacks need ART", hint="pip install 'bascule[robustness]'") from None

    attack = HopSkipJump(
        BlackBoxClassifier(ask, start.shape[1:], 2, clip_values=ends),
        norm=norm, max_iter=_ATTACK_STEPS, max_eval=_MOST_AT_ONCE, verbose=False,
    )  # fmt: skip
    state = np.random.get_state()
    np.random.seed(_SEED)  # ART draws from the generator of the process
    try:
        attack.generate(start.astype(np.float32), x_adv_init=other.astype(np.float32))
    finally:
        np.random.set_state(state)


def _share(right: NDArray[np.bool_], note: str) -> Measured:
    lower, upper = wilson_interval(float(right.sum()), len(right))
    return Measured(
        float(right.mean()),
        f"{int(right.sum()):,} of {len(right):,} rows, 95 % interval {lower:.4g} to {upper:.4g}; "
        f"{note}",
    )
