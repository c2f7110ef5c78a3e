"""How many answers stay right when rows are changed a little: by chance, by an attacker, for sure.

| in brackets | rows are changed by | the share is |
|---|---|---|
| `noise=S` | normal noise of S deviations, `_DRAWS` times | an upper bound |
| `missing=P` | leaving each value out with probability P, `_DRAWS` times | an upper bound |
| `out_of_range=P` | moving each number, with probability P, one range beyond its range | the same |
| `linf=R`, `l2=R` | HopSkipJump (Chen, Jordan, Wainwright 2020), which sees labels | the same |
| `certified_accuracy[l2=R]` | any change of that length | a lower bound, of a smoothed model |

A row counts when its answer is right, and right again in every state that was tried: what was not
tried may still change it, so the first four bound robust accuracy from above. The certificate is of
the model that answers with the majority of the bundle's answers under normal noise of deviation R
(Cohen, Rosenfeld and Kolter 2019), not of the bundle's own single answers.

Lengths are in standard deviations of each column (of each place of a tensor) over the held-out
rows, as noise is. Numbers with a fraction are moved; categories, whole numbers and texts stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.core import Columns, Invalid
from bascule.metrics import wilson_interval
from bascule.monitoring.performance import Reference
from bascule.release.conditions import Change, Missing, Noise
from bascule.release.gates import Measured
from bascule.release.states import in_state, movable, out_of_range
from bascule.stats import exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle

Floats = NDArray[np.float64]

_SEED = 0
_DRAWS = 10
_MAX_ROWS = 2_000
_ATTACKED_ROWS, _MAX_QUERIES, _STARTS = 100, 5_000, 3
_CERTIFIED_ROWS, _GUESSES, _SAMPLES, _ALPHA = 100, 100, 1_000, 0.001
"""Of a certificate: rows, draws that choose the class, draws that count it, and the chance that the
bound of one row is wrong."""


class Robustness:
    """A sample of the held-out rows of a classifier, to be changed.

    Args:
        bundle: What is measured.
        columns: The held-out rows, in the signature's dtypes.
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
        self._signature = bundle.signature
        self._reference = Reference(bundle)
        self._columns, self._truth, self._ask = columns, truth, ask

    def of(self, change: Change) -> Measured:
        """The share of rows that are answered right however they were changed."""
        if change.kind in ("linf", "l2"):
            return self._attacked(change)
        rows = self._sample(_MAX_ROWS)
        right = self._right(self._columns, rows)
        for draw in range(_DRAWS):
            changed = self._changed(change, draw)
            right &= self._right(changed, rows)
        return _share(right, f"right in each of {_DRAWS} draws; an upper bound of robustness")

    def certified(self, radius: float) -> Measured:
        """The share of rows for which the smoothed model is proven right within a radius.

        Cohen, Rosenfeld and Kolter 2019, algorithm CERTIFY, with the radius as sigma: it is sigma
        times the normal quantile of the lower bound of the share of the majority.
        """
        rows = self._sample(_CERTIFIED_ROWS)
        space = Space(self._columns, self._reference.bundle)
        random = np.random.default_rng(_SEED)
        certified = np.zeros(len(rows), bool)
        known = self._reference.labelled(self._truth, self._ask(self._columns)).truth[rows]
        for place, row in enumerate(rows.tolist()):
            noise = random.normal(scale=radius, size=(_GUESSES + _SAMPLES, space.size))
            labels = self._labels(space.rows(row, space.points[row] + noise * space.moves[row]))
            top = np.bincount(labels[:_GUESSES] + 1).argmax() - 1
            votes = int((labels[_GUESSES:] == top).sum())
            share, _ = exact_interval(votes, _SAMPLES, confidence=1 - 2 * _ALPHA)
            is_within = share > 0.5 and radius * NormalDist().inv_cdf(share) >= radius
            certified[place] = is_within and top == known[place]
        return _share(
            certified,
            f"of the model that answers with the majority under noise of {radius:g} deviations, "
            f"{_SAMPLES:,} draws a row, each row wrong with probability {_ALPHA:g}; a lower bound",
        )

    def _attacked(self, change: Change) -> Measured:
        rows = self._sample(_ATTACKED_ROWS)
        space = Space(self._columns, self._reference.bundle)
        answers = self._reference.labelled(self._truth, self._ask(self._columns))
        right = answers.truth[rows] == answers.answers[rows]
        queries = 0
        for place, row in enumerate(rows.tolist()):
            if right[place]:
                attack = _Attack(self._labels, space, row, int(answers.answers[row]), change)
                right[place] = not attack.succeeds(answers.answers)
                queries += attack.queries
        return _share(
            right,
            f"not evaded by HopSkipJump in {_MAX_QUERIES:,} queries a row ({queries:,} in all), "
            "seeded; an upper bound of robustness",
        )

    def _sample(self, most: int) -> NDArray[np.intp]:
        """The same rows every time."""
        count = len(self._truth)
        if count <= most:
            return np.arange(count)
        return np.sort(np.random.default_rng(_SEED).choice(count, most, replace=False))

    def _right(self, columns: Columns, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        labelled = self._reference.labelled(self._truth[rows], self._ask(take(columns, rows)))
        return np.asarray(labelled.truth == labelled.answers)

    def _labels(self, columns: Columns) -> NDArray[np.int64]:
        """The place of the class of each answer."""
        answers = self._ask(columns)
        nothing = np.full(len(next(iter(columns.values()))), None, object)
        return np.asarray(self._reference.labelled(nothing, answers).answers, np.int64)

    def _changed(self, change: Change, draw: int) -> Columns:
        if change.kind == "out_of_range":
            return out_of_range(self._columns, self._signature, change.size, seed=draw)
        state = Noise if change.kind == "noise" else Missing
        return in_state(self._columns, self._signature, state(100 * change.size), seed=draw)


class Space:
    """Rows as points: the numbers of a row that may move, in standard deviations.

    Attributes:
        points: Shape (rows, numbers).
        moves: 1 for a number that may move, 0 for a missing or constant one. The same shape.
    """

    def __init__(self, columns: Columns, bundle: Bundle) -> None:
        self._columns = columns
        parts = [
            (field, *moving)
            for field in bundle.signature.inputs
            if (moving := movable(columns[field.name], field)) is not None
        ]
        if not parts:
            raise Invalid("no column of the model holds fractions")
        self._parts = [(field.name, spread) for field, _, spread in parts]
        spreads = np.concatenate([spread.reshape(-1) for _, _, spread in parts])
        flat = np.concatenate([known.reshape(len(known), -1) for _, known, _ in parts], axis=1)
        self._spreads = spreads
        self.moves = (np.isfinite(flat) & (spreads > 0)).astype(np.float64)
        self.points: Floats = np.nan_to_num(flat) / np.where(spreads > 0, spreads, 1.0)

    @property
    def size(self) -> int:
        return int(self.points.shape[1])

    def rows(self, row: int, points: Floats) -> Columns:
        """The row as many times as there are points, with the numbers of these points."""
        made = {
            name: np.repeat(values[row : row + 1], len(points), axis=0)
            for name, values in self._columns.items()
        }
        steps = (points - self.points[row]) * self.moves[row] * self._spreads
        start = 0
        for name, spread in self._parts:
            values = made[name]
            step = steps[:, start : start + spread.size].reshape(values.shape)
            made[name] = (values.astype(np.float64) + step).astype(values.dtype)
            start += spread.size
        return made


class _Evaded(Exception):
    """A point close enough has another answer."""


class _Spent(Exception):
    """The queries are used up."""


class _Attack:
    """HopSkipJump of ART on one row; every point that it asks for is judged here.

    What counts is a row that the program was asked for and answered otherwise, at a distance that
    is measured here: nothing is taken on the attack's word.
    """

    def __init__(
        self,
        labels: Callable[[Columns], NDArray[np.int64]],
        space: Space,
        row: int,
        answer: int,
        change: Change,
    ) -> None:
        self._labels, self._space, self._row, self._answer = labels, space, row, answer
        self._change = change
        self._start = space.points[row]
        self.queries = 0

    def succeeds(self, answers: NDArray[Any]) -> bool:
        """Whether an evading row was found; `answers` are those to all rows, to start from."""
        try:
            for start in self._starts(answers):
                self._generate(start)
        except _Evaded:
            return True
        except _Spent:
            return False
        return False

    def _starts(self, answers: NDArray[Any]) -> Iterator[Floats]:
        """The nearest rows with another answer. ART would draw them without a seed."""
        others = self._space.points[answers != self._answer]
        distances = [self._length(other - self._start) for other in others]
        for place in np.argsort(distances, kind="stable")[:_STARTS]:
            yield others[place]

    def _length(self, step: Floats) -> float:
        step = step * self._space.moves[self._row]
        return float(np.abs(step).max() if self._change.kind == "linf" else np.linalg.norm(step))

    def _generate(self, start: Floats) -> None:
        try:
            from art.attacks.evasion import HopSkipJump
            from art.estimators.classification import BlackBoxClassifier
        except ImportError:
            raise Invalid("attacks need ART: pip install 'bascule[robustness]'") from None

        points = self._space.points
        low, high = points.min() - self._change.size, points.max() + self._change.size
        classifier = BlackBoxClassifier(
            self._ask, (self._space.size,), 2, clip_values=(float(low), float(high))
        )
        norm = np.inf if self._change.kind == "linf" else 2
        attack = HopSkipJump(classifier, norm=norm, max_iter=40, max_eval=500, verbose=False)
        state = np.random.get_state()
        np.random.seed(_SEED)  # ART draws from the generator of the process
        try:
            attack.generate(
                self._start[None].astype(np.float32), x_adv_init=start[None].astype(np.float32)
            )
        finally:
            np.random.set_state(state)

    def _ask(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Two classes: the answer of the row, and any other."""
        if self.queries >= _MAX_QUERIES:
            raise _Spent
        self.queries += len(points)
        exact = np.asarray(points, np.float64)
        others = self._labels(self._space.rows(self._row, exact)) != self._answer
        for point in exact[others]:
            if self._length(point - self._start) <= self._change.size:
                raise _Evaded
        return np.column_stack([~others, others]).astype(np.float64)


def _share(right: NDArray[np.bool_], note: str) -> Measured:
    lower, upper = wilson_interval(float(right.sum()), len(right))
    return Measured(
        float(right.mean()),
        f"{int(right.sum()):,} of {len(right):,} rows, 95 % interval {lower:.4g} to {upper:.4g}; "
        f"{note}",
    )
