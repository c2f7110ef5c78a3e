"""Split conformal prediction: a set or an interval that holds the truth as often as was asked.

A score says how strange a label or a number is beside a model's answer. Rows that the model was
not fitted on give n scores; the threshold for a confidence c is the k-th smallest of them with
k = ceil((n + 1) c), and an answer's set is every label, or its interval every number, whose score
is not over it. If new rows come from where those came from, the truth is inside with a probability
of at least c (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, theorem 2). For one calibration the
share that is covered is itself a draw from Beta(k, n + 1 - k) where scores do not tie (Vovk 2012):
with few rows it scatters around c, and that is not an error.

The scores:

| method | of | score | source |
|---|---|---|---|
| `lac` | classes | 1 - p(y) | Sadinle, Lei and Wasserman 2019 |
| `aps` | classes | the mass of y and of all classes before it | Romano, Sesia and Candes 2020 |
| `absolute` | numbers | abs(y - prediction) | Lei et al. 2018 |
| `normalised` | numbers | abs(y - prediction) / scale | Lei et al. 2018, section 5.2 |
| `cqr` | numbers | max(lower - y, y - upper) | Romano, Patterson and Candes 2019 |

`absolute` needs nothing but the prediction; `normalised` and `cqr` need a model that also answers
a scale or two quantiles. Only numpy and the standard library are used here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, DType, Field, Invalid, Untrusted

Floats = NDArray[np.float64]

MAX_EXACT_SCORES = 4_000
"""Up to so many scores are kept one by one; of more, this many evenly spaced ones and the last."""

PREDICTION_SET, LOWER, UPPER = "prediction_set", "lower", "upper"
ADDED = frozenset((PREDICTION_SET, LOWER, UPPER))
"""The names of what is added to a model's outputs."""

PROBABILITIES, PREDICTION, SCALE = "probabilities", "prediction", "scale"
LOWER_QUANTILE, UPPER_QUANTILE = "lower_quantile", "upper_quantile"

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "lac": (PROBABILITIES,),
    "aps": (PROBABILITIES,),
    "cqr": (LOWER_QUANTILE, UPPER_QUANTILE),
    "normalised": (PREDICTION, SCALE),
    "absolute": (PREDICTION,),
}
"""The outputs that each method reads."""

_FORMAT = 1
_TAIL = 200
_ROUNDINGS = 3
"""Each may cost a last digit: the difference and the quotient of a score, the product of an end."""


def rank(rows: int, confidence: float) -> int:
    """ceil((rows + 1) * confidence), in exact arithmetic.

    The confidence is meant as it is written: 0.55 of 100 is 55, and in binary a little more.
    """
    return math.ceil((rows + 1) * Fraction(repr(float(confidence))))


def rows_needed(confidence: float) -> int:
    """The fewest calibration rows that can support a confidence."""
    written = Fraction(repr(float(confidence)))
    return math.ceil(written / (1 - written))


# -- scores of classes --


def lac_scores(probabilities: Floats) -> Floats:
    """The score of every class of every row: 1 - p. Shape (rows, classes)."""
    return 1.0 - probabilities


def aps_scores(probabilities: Floats, u: Floats | None = None) -> Floats:
    """The score of every class of every row: the mass that must be taken to reach it.

    Args:
        probabilities: Shape (rows, classes).
        u: One number from [0, 1) a row: the part of a class' own mass that is left out, drawn
            uniformly in Romano, Sesia and Candes 2020. None leaves nothing out; then a model that
            is sure of itself gives many scores just under 1, and sets larger than they need be.

    Returns:
        Shape (rows, classes). Of classes with equal probability the first is taken first.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    mass = np.cumsum(ordered, axis=1)
    if u is not None:
        mass -= np.asarray(u, np.float64)[:, None] * ordered
    scores = np.empty_like(mass)
    np.put_along_axis(scores, order, mass, axis=1)
    return scores


def row_noise(probabilities: Floats) -> Floats:
    """A number from [0, 1) a row that looks random and is a function of the row's probabilities.

    They are rounded to 2^-20 before they are mixed (splitmix64, Steele, Lea and Flood 2014), so
    that the last bits of an answer, which may depend on its batch, rarely have a say.
    """
    whole = np.rint(probabilities * 2**20).astype(np.int64).astype(np.uint64)
    mixed = np.zeros(len(whole), np.uint64)
    for column in whole.T:
        mixed = _mix(mixed + column + np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def class_scores(method: str, probabilities: Floats) -> Floats:
    """The score of every class of every row, by `lac` or by `aps`. Shape (rows, classes).

    The draw of `aps` is made from the row's own answer. So the same row always has the same set,
    and the coverage is exact all the same: a score may be any fixed function of a row and a label.
    A row with a probability that is not a finite number has NaN for every class.
    """
    finite = np.isfinite(probabilities)
    if not finite.all():
        known = finite.all(axis=1)
        scores = np.full(probabilities.shape, np.nan)
        scores[known] = class_scores(method, probabilities[known])
        return scores
    if method == "lac":
        return lac_scores(probabilities)
    return aps_scores(probabilities, row_noise(probabilities))


def class_sets(method: str, probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which classes are in the set of each row. Shape (rows, classes).

    A set may be empty: with `lac` where no class is likely enough. It is then the row that is
    strange, and filling the set would only make the others' coverage look better than it is. So it
    is where a probability is not a finite number: what is no answer holds no truth.
    """
    return class_scores(method, probabilities) <= threshold


# -- scores of numbers --


def number_scores(method: str, outputs: Mapping[str, NDArray[Any]], truth: Floats) -> Floats:
    """How strange each row's true number is beside the answer.

    The score of the paper, or where rounding would lose the truth, one of the next numbers: at
    every threshold from the score on, `intervals` holds it, for rounded sums and products keep the
    order. Without this a truth that many rows share could be outside of all intervals:
    0.13 + (1.2 - 0.13) is less than 1.2.

    Raises:
        Invalid: A scale is not a number over 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # visible in the score, which is not finite
        scores = _written(method, outputs, truth)
        for _ in range(_ROUNDINGS):
            lower, upper = intervals(method, outputs, scores)
            outside = (truth < lower) | (upper < truth)
            scores = np.where(outside, np.nextafter(scores, np.inf), scores)
    return scores


def _written(method: str, outputs: Mapping[str, NDArray[Any]], truth: Floats) -> Floats:
    """The score as the papers write it."""
    if method == "cqr":
        return np.maximum(
            _column(outputs, LOWER_QUANTILE) - truth, truth - _column(outputs, UPPER_QUANTILE)
        )
    residuals = np.abs(truth - _column(outputs, PREDICTION))
    return residuals if method == "absolute" else residuals / _scale(outputs)


def intervals(
    method: str, outputs: Mapping[str, NDArray[Any]], threshold: float | Floats
) -> tuple[Floats, Floats]:
    """The lower and the upper end of each row's interval; NaN where the answer is.

    A `cqr` interval with a negative threshold may be empty: then both ends are its middle.
    """
    if method == "cqr":
        lower = _column(outputs, LOWER_QUANTILE) - threshold
        upper = _column(outputs, UPPER_QUANTILE) + threshold
        crossed = lower > upper
        middle = (lower + upper) / 2
        return np.where(crossed, middle, lower), np.where(crossed, middle, upper)
    prediction = _column(outputs, PREDICTION)
    half = threshold if method == "absolute" else threshold * _scale(outputs)
    return prediction - half, prediction + half


def _column(outputs: Mapping[str, NDArray[Any]], name: str) -> Floats:
    values = np.asarray(outputs[name], np.float64)
    return values.reshape(len(values))


def _scale(outputs: Mapping[str, NDArray[Any]]) -> Floats:
    scale = _column(outputs, SCALE)
    if not (scale > 0).all():
        raise Invalid("the model's output scale is not over 0 for every row")
    return scale


# -- thresholds --


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of a calibration, sorted; of many, those at some ranks.

    Attributes:
        rows: How many rows gave them, also those whose truth no set can hold.
        ranks: The rank of each value, from 1, rising.
        values: The scores at these ranks.
    """

    rows: int
    ranks: NDArray[np.int64]
    values: Floats

    @classmethod
    def of(cls, scores: Floats) -> Scores:
        """Keep what is needed of all scores; an infinite one is of a row beyond every set.

        Of more than `MAX_EXACT_SCORES` those at evenly spaced ranks are kept, and the last 200
        all: a threshold in between is the next larger one kept, so the coverage is raised by
        1 / `MAX_EXACT_SCORES` at most, and never lowered.
        """
        ordered = np.sort(scores)
        within = int(np.isfinite(ordered).sum())
        kept = np.arange(1, within + 1)
        if within > MAX_EXACT_SCORES:
            spaced = -(-kept[:MAX_EXACT_SCORES] * within // MAX_EXACT_SCORES)
            kept = np.union1d(spaced, kept[-_TAIL:])
        return cls(len(scores), kept, ordered[kept - 1])

    def threshold(self, confidence: float) -> float:
        """The score that a new row's does not exceed with this confidence.

        Raises:
            Invalid: There are too few rows for it.
        """
        return float(self.values[self._place(confidence)])

    def rank(self, confidence: float) -> int:
        """Which of the scores in order the threshold is; raises `Invalid` as `threshold` does.

        It is one of those that were kept, so it may be a later one than was asked for.
        """
        return int(self.ranks[self._place(confidence)])

    def _place(self, confidence: float) -> int:
        wanted = rank(self.rows, confidence)
        place = int(np.searchsorted(self.ranks, wanted))
        if place == len(self.ranks):
            raise Invalid(
                f"confidence: {confidence:g} is more than {self.rows} calibration rows can "
                f"support{self._beyond()}",
                hint=self._hint(confidence),
                limit=self.largest_confidence,
            )
        return place

    @property
    def largest_confidence(self) -> float:
        """The largest confidence that there is a threshold for; 0 if there is none."""
        if not len(self.ranks):
            return 0.0
        last = int(self.ranks[-1])
        largest = last / (self.rows + 1)
        # The quotient may be rounded up, and is then written as more than there are rows for.
        return largest if rank(self.rows, largest) <= last else math.nextafter(largest, 0)

    def _beyond(self) -> str:
        within = int(self.ranks[-1]) if len(self.ranks) else 0
        beyond = self.rows - within
        return f", {beyond} of them with a truth that the model cannot answer" if beyond else ""

    def _hint(self, confidence: float) -> str:
        most = math.floor(self.largest_confidence * 1e4) / 1e4
        return (
            f"ask for {most:g} at most, or pack the model with "
            f"{rows_needed(confidence):,} calibration rows or more"
        )

    def to_json(self) -> dict[str, Any]:
        every = len(self.ranks) == 0 or int(self.ranks[-1]) == len(self.ranks)
        return {
            "ranks": None if every else self.ranks.tolist(),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_json(cls, rows: int, value: Mapping[str, Any]) -> Scores:
        """Raises ValueError where it is not what `to_json` writes."""
        values = np.array(value["values"], np.float64)
        ranks = np.arange(1, len(values) + 1)
        if value["ranks"] is not None:
            ranks = np.array(value["ranks"], np.int64)
        if ranks.shape != values.shape or values.ndim != 1:
            raise ValueError("as many ranks as values are needed")
        if not np.isfinite(values).all() or (np.diff(values) < 0).any():
            raise ValueError("the scores do not rise")
        if len(ranks) and (ranks[0] < 1 or ranks[-1] > rows or (np.diff(ranks) < 1).any()):
            raise ValueError("the ranks do not rise within the rows")
        return cls(rows, ranks, values)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a bundle needs to give every answer a prediction set or an interval.

    Attributes:
        rows: The calibration rows.
        source: Which rows: `test`, which also judge quality, or `calibration`, rows of their own.
        methods: The scores by method; the first one is used unless another is asked for.
    """

    rows: int
    source: str
    methods: Mapping[str, Scores]

    @property
    def needs(self) -> tuple[str, ...]:
        """The outputs of the model that are read."""
        return _NEEDS[next(iter(self.methods))]

    @property
    def is_of_classes(self) -> bool:
        return PROBABILITIES in self.needs

    @property
    def largest_confidence(self) -> float:
        """The largest that can be asked for."""
        return min(scores.largest_confidence for scores in self.methods.values())

    def fields(self, outputs: Sequence[Field]) -> tuple[Field, ...]:
        """What is added to the outputs of the model."""
        if self.is_of_classes:
            shape = next(field.shape for field in outputs if field.name == PROBABILITIES)
            return (Field(PREDICTION_SET, DType.BOOL, shape),)
        return (Field(LOWER, DType.FP64), Field(UPPER, DType.FP64))

    def method(self, named: object = None) -> str:
        """The method of that name; the usual one for None. Raises `Invalid`."""
        if named is None:
            return next(iter(self.methods))
        if not isinstance(named, str) or named not in self.methods:
            raise Invalid(
                f"conformal: {named!r:.32} is no method of this model",
                hint=f"it has {', '.join(self.methods)}",
            )
        return named

    def threshold(self, confidence: float, method: str | None = None) -> float:
        """The largest score inside. Raises `Invalid` where there are too few rows for it."""
        return self.methods[self.method(method)].threshold(confidence)

    def rank(self, confidence: float, method: str | None = None) -> int:
        """Which score in order that is, k of n: the law of the coverage is Beta(k, n + 1 - k)."""
        return self.methods[self.method(method)].rank(confidence)

    def holds(
        self, added: Mapping[str, NDArray[Any]], truth: NDArray[Any], classes: Sequence[Any] | None
    ) -> NDArray[np.bool_]:
        """Whether each row's truth is inside.

        Args:
            added: From `added`.
            truth: One of `classes` each, or a number; a label that is none of them is in no set.
            classes: The labels in the order of the probabilities.

        Raises:
            Invalid: A truth is not a finite number.
        """
        if not self.is_of_classes:
            numbers = _numbers(truth)
            return np.asarray((added[LOWER] <= numbers) & (numbers <= added[UPPER]))
        own = _places(truth, classes or ())
        held = added[PREDICTION_SET][np.arange(len(own)), own]
        return np.asarray(held & (own >= 0))

    def added(
        self, outputs: Mapping[str, NDArray[Any]], confidence: float, method: str | None = None
    ) -> Columns:
        """The set or the interval of each row, from the model's outputs.

        Raises:
            Invalid: There are too few calibration rows for the confidence.
        """
        chosen = self.method(method)
        threshold = self.methods[chosen].threshold(confidence)
        if self.is_of_classes:
            probabilities = np.asarray(outputs[PROBABILITIES], np.float64)
            return {PREDICTION_SET: class_sets(chosen, probabilities, threshold)}
        lower, upper = intervals(chosen, outputs, threshold)
        return {LOWER: lower, UPPER: upper}

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "rows": self.rows,
            "source": self.source,
            "methods": [
                {"name": name, **scores.to_json()} for name, scores in self.methods.items()
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Raises `Untrusted` where it is not what `to_json` writes, or of a newer format."""
        try:
            if value["format"] != _FORMAT:
                raise Untrusted(
                    f"the calibration has format {value['format']!r}, and this bascule reads "
                    f"{_FORMAT}",
                    hint="update bascule",
                )
            rows = int(value["rows"])
            methods = {str(one["name"]): Scores.from_json(rows, one) for one in value["methods"]}
            if not methods or len({_NEEDS[name][0] for name in methods}) != 1:
                raise ValueError("its methods do not go together")
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise Untrusted(f"the calibration cannot be read: {problem}") from None
        return cls(rows, str(value["source"]), methods)


def methods_for(
    task: str, outputs: Sequence[Field], classes: Sequence[Any] | None
) -> tuple[str, ...]:
    """The methods that a model's outputs allow, the usual one first; none if they allow none.

    For a task that is `other`, outputs are recognised by their names; a plain graph without such
    names gets no method, because nothing says what its numbers are. A model that answers several
    numbers a row gets none either: an interval for each is no statement about the row. Nor does one
    that has an output with the name of what would be added.
    """
    shapes = {field.name: field.shape for field in outputs}
    if not shapes.keys().isdisjoint(ADDED):
        return ()
    if task == "classification":
        return ("lac", "aps") if shapes.get(PROBABILITIES) == (len(classes or ()),) else ()
    numbers = {
        field.name for field in outputs if field.dtype.is_float and field.shape in ((), (1,))
    }
    for method in ("cqr", "normalised", "absolute"):
        if numbers.issuperset(_NEEDS[method]):
            return (method,)
    return ()


def calibrate(
    methods: Sequence[str],
    outputs: Mapping[str, NDArray[Any]],
    truth: NDArray[Any],
    *,
    classes: Sequence[Any] | None = None,
    source: str = "test",
) -> Calibration:
    """Scores of held-out rows, kept for later.

    Args:
        methods: From `methods_for`, not empty.
        outputs: The model's answers for the rows.
        truth: What was true: one of `classes` each, or a number. A label that is none of the
            classes counts as a row that no set can hold.
        classes: The labels in the order of the probabilities.
        source: Which rows they are.

    Raises:
        Invalid: There are no rows, or a truth or an answer is not a finite number.
    """
    if not len(truth):
        raise Invalid("there are no rows to calibrate with", hint="give at least 9 for 0.9")
    for name in dict.fromkeys(name for method in methods for name in _NEEDS[method]):
        if not np.isfinite(np.asarray(outputs[name], np.float64)).all():
            raise Invalid(f"{name}: an answer of the model is not a finite number")
    if classes is None:
        numbers = _numbers(truth)
        scores = {method: number_scores(method, outputs, numbers) for method in methods}
        for method, values in scores.items():
            if not np.isfinite(values).all():
                raise Invalid(f"{method} scores: one is too large for a number")
    else:
        own = _places(truth, classes)
        probabilities = np.asarray(outputs[PROBABILITIES], np.float64)
        scores = {}
        for method in methods:
            every = class_scores(method, probabilities)
            scores[method] = np.where(own < 0, np.inf, every[np.arange(len(own)), own])
    return Calibration(
        len(truth), source, {method: Scores.of(values) for method, values in scores.items()}
    )


def _places(truth: NDArray[Any], classes: Sequence[Any]) -> NDArray[np.int64]:
    """The place of each label among the classes; -1 for one that is not there."""
    places = {label: place for place, label in enumerate(classes)}
    return np.array([places.get(label, -1) for label in truth.tolist()], np.int64)


def _numbers(truth: NDArray[Any]) -> Floats:
    try:
        numbers = np.asarray(truth, np.float64)
    except (TypeError, ValueError):
        raise Invalid("a truth of the calibration rows is not a number") from None
    if not np.isfinite(numbers).all():
        missing = int((~np.isfinite(numbers)).sum())
        raise Invalid(
            f"{missing} of {len(numbers)} truths of the calibration rows are not finite numbers",
            hint="leave those rows out",
        )
    return numbers
