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
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.core import Columns, Invalid
from bascule.metrics import Labelled, wilson_interval
from bascule.monitoring.performance import Reference
from bascule.release.conditions import Change, Missing, Noise, OutOfRange
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
_STATES: dict[str, type[Noise | Missing | OutOfRange]] = {
    "noise": Noise,
    "missing": Missing,
    "out_of_range": OutOfRange,
}
_MAX_QUERIES, _STARTS = 5_000, 3
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
        state, rows = _STATES[change.kind](100 * change.size), self._sample(_MAX_ROWS)
        right = self._right(rows)
        for draw in range(_DRAWS):
            changed = in_state(self._columns, self._signature, state, seed=draw)
            answers = self._labelled(take(changed, rows), self._truth[rows])
            right &= answers.truth == answers.answers
        return _share(right, f"right in each of {_DRAWS} draws; an upper bound of robustness")

    def certified(self, radius: float) -> Measured:
        """The share of rows for which the smoothed model is proven right within a radius.

        Algorithm CERTIFY with the radius as sigma: the radius that is proven is sigma times the
        normal quantile of a lower bound of the majority's share, which has to be at least 1.
        """
        rows, random = self._sample(_FEW_ROWS), np.random.default_rng(_SEED)
        certified = np.zeros(len(rows), bool)
        for place, row in enumerate(rows.tolist()):
            noise = random.normal(scale=radius, size=(_GUESSES + _SAMPLES, self.points.shape[1]))
            labels = self._labels(row, self.points[row] + noise)
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
        rows = self._sample(_FEW_ROWS)
        right, queries = self._right(rows), 0
        for place in np.flatnonzero(right).tolist():
            evaded, asked = self._evaded(int(rows[place]), change)
            right[place], queries = not evaded, queries + asked
        return _share(
            right,
            f"not evaded by HopSkipJump in {_MAX_QUERIES:,} queries a row ({queries:,} in all), "
            "seeded; an upper bound of robustness",
        )

    def _evaded(self, row: int, change: Change) -> tuple[bool, int]:
        """Whether a row within the length has another answer, and the queries that were made.

        Nothing is taken on the attack's word: what counts is a row that the program was asked for,
        at a distance that is measured here.
        """
        answer, start, queries = self._answers.answers[row], self.points[row], 0

        def length(points: Floats) -> Floats:
            order = np.inf if change.kind == "linf" else 2
            steps = (points - start) * self.moves[row]
            return np.asarray(np.linalg.norm(steps, ord=order, axis=1), np.float64)

        def ask(points: NDArray[Any]) -> Floats:
            """Two classes: the answer of the row, and any other."""
            nonlocal queries
            exact = np.asarray(points, np.float64)
            others = self._labels(row, exact) != answer
            queries += len(exact)
            is_evaded = bool((others & (length(exact) <= change.size)).any())
            if is_evaded or queries >= _MAX_QUERIES:
                raise _Ended(is_evaded)
            return np.column_stack([~others, others]).astype(np.float64)

        # The nearest rows with another answer: ART would draw its starts without a seed.
        others = self.points[self._answers.answers != answer]
        starts = others[np.argsort(length(others), kind="stable")[:_STARTS]]
        try:
            for other in starts:
                _hop_skip_jump(ask, start, other, self.points, change)
        except _Ended as ended:
            return ended.is_evaded, queries
        return False, queries

    @cached_property
    def _parts(self) -> list[tuple[str, Floats, Floats]]:
        """The inputs with numbers that may move: name, numbers, deviation of each place."""
        parts = [
            (field.name, *moving)
            for field in self._signature.inputs
            if (moving := movable(self._columns[field.name], field)) is not None
        ]
        if not parts:
            raise Invalid(
                "no column of the model holds fractions", hint="ask for [missing=0.05] instead"
            )
        return parts

    @cached_property
    def _spreads(self) -> Floats:
        return np.concatenate([spread.reshape(-1) for _, _, spread in self._parts])

    @cached_property
    def _numbers(self) -> Floats:
        flat = [numbers.reshape(len(numbers), -1) for _, numbers, _ in self._parts]
        return np.concatenate(flat, axis=1)

    @cached_property
    def moves(self) -> NDArray[np.bool_]:
        """Which numbers move: not a constant one, nor one that is missing in the row."""
        return np.asarray(np.isfinite(self._numbers) & (self._spreads > 0))

    @cached_property
    def points(self) -> Floats:
        """The numbers of each row that may move, in deviations. Shape (rows, numbers)."""
        known = np.where(np.isfinite(self._numbers), self._numbers, 0.0)
        return np.asarray(known / np.where(self._spreads > 0, self._spreads, 1.0), np.float64)

    def rows(self, row: int, points: Floats) -> Columns:
        """A row as often as there are points, with the numbers of these points."""
        made = {name: np.repeat(values[row : row + 1], len(points), axis=0)
                for name, values in self._columns.items()}  # fmt: skip
        steps, start = (points - self.points[row]) * self.moves[row] * self._spreads, 0
        for name, _, spread in self._parts:
            values = made[name]
            step = steps[:, start : start + spread.size].reshape(values.shape)
            made[name] = (values.astype(np.float64) + step).astype(values.dtype)
            start += spread.size
        return made

    def _labels(self, row: int, points: Floats) -> NDArray[np.int64]:
        """The place of the class that answers the row with such numbers."""
        nothing = np.full(len(points), None, object)
        return np.asarray(self._labelled(self.rows(row, points), nothing).answers, np.int64)

    def _labelled(self, columns: Columns, truth: NDArray[Any]) -> Labelled:
        return self._reference.labelled(truth, self._ask(columns))

    def _right(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        return np.asarray(self._answers.truth[rows] == self._answers.answers[rows])

    def _sample(self, most: int) -> NDArray[np.intp]:
        """The same rows every time."""
        count = len(self._truth)
        random = np.random.default_rng(_SEED)
        return np.sort(random.choice(count, min(most, count), replace=False))


class _Ended(Exception):
    """An attack has found an evading row, or has made all its queries."""

    def __init__(self, is_evaded: bool) -> None:
        super().__init__(is_evaded)
        self.is_evaded = is_evaded


def _hop_skip_jump(
    ask: Callable[[NDArray[Any]], Floats],
    start: Floats,
    other: Floats,
    points: Floats,
    change: Change,
) -> None:
    """ART's attack on one row, from another row; `ask` judges each point, and ends it."""
    try:
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import BlackBoxClassifier
    except ImportError:
        raise Invalid("attacks need ART", hint="pip install 'bascule[robustness]'") from None

    ends = float(points.min() - change.size), float(points.max() + change.size)
    attack = HopSkipJump(
        BlackBoxClassifier(ask, start.shape, 2, clip_values=ends),
        norm=np.inf if change.kind == "linf" else 2, max_iter=40, max_eval=500, verbose=False,
    )  # fmt: skip
    state = np.random.get_state()
    np.random.seed(_SEED)  # ART draws from the generator of the process
    try:
        attack.generate(start[None].astype(np.float32), x_adv_init=other[None].astype(np.float32))
    finally:
        np.random.set_state(state)


def _share(right: NDArray[np.bool_], note: str) -> Measured:
    lower, upper = wilson_interval(float(right.sum()), len(right))
    return Measured(
        float(right.mean()),
        f"{int(right.sum()):,} of {len(right):,} rows, 95 % interval {lower:.4g} to {upper:.4g}; "
        f"{note}",
    )
