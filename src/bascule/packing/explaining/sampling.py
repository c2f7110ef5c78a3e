"""Packs explanations by sampling: background rows, and how far sampled attributions may be off."""

from __future__ import annotations

import numpy as np

from bascule.bundle import for_program, take
from bascule.bundle.explaining import Explanation, Game, column_places, write_rows
from bascule.bundle.explaining.sampling import MAX_PLAYERS, METHOD
from bascule.core import Columns, Field, Unconvertible
from bascule.packing.explaining.making import Made, Sources
from bascule.stats import Coalitions

BACKGROUND = 32
MAX_OUTPUTS = 50
_MOST_EXACT = 10
"""With so many columns or fewer, the reference of the error asks every coalition."""
_FINER = 8
"""With more, it has so many times the permutations."""
_ROWS = 8
"""Of which attributions are compared and timed: a row asks the program thousands of times."""


def make(sources: Sources) -> Made:
    """See `Maker`: for a tabular model that is compiled, with training rows."""
    subject = sources.subject
    columns = tuple(place.name for place in column_places(subject.signature))
    if not columns or len(columns) > MAX_PLAYERS:
        raise Unconvertible(f"the model does not take 1 to {MAX_PLAYERS} columns")
    if subject.train is None or not len(subject.train):
        raise Unconvertible("there are no training rows")
    own = (subject.original, subject.reopened)
    if sources.program.may_block or (subject.saved_format != "onnx" and sources.program in own):
        raise Unconvertible("the model is not compiled")
    answer = answer_of(sources.outputs)
    outputs = names_of(answer, subject.classes)
    count = min(sources.background or BACKGROUND, len(subject.train))
    chosen = np.random.default_rng(0).choice(len(subject.train), count, replace=False)
    background = for_program(take(subject.train.columns, np.sort(chosen)), sources.program.inputs)
    coalitions = Coalitions(len(columns))
    explanation = Explanation(
        method=METHOD, link="identity", answer=answer.name, columns=columns, outputs=outputs,
        tolerance=sources.tolerance, about=about(coalitions, count), background_rows=count,
        settings={"pairs": coalitions.pairs_used},
    )  # fmt: skip
    error = None
    if not coalitions.is_exact:
        error = _error(sources, answer.name, coalitions, background)
    return Made(
        explanation, write_rows(background, sources.program.inputs), error, measured_rows=_ROWS
    )


def answer_of(outputs: tuple[Field, ...]) -> Field:
    """The output that is explained: probabilities, else the first of numbers. A vector at most."""
    numbers = [field for field in outputs if field.dtype.is_float and len(field.shape) < 2]
    fixed = [field for field in numbers if not field.shape or 0 < field.shape[0] <= MAX_OUTPUTS]
    if not fixed:
        raise Unconvertible(f"the model answers neither numbers nor vectors of 1 to {MAX_OUTPUTS}")
    return next((field for field in fixed if field.name == "probabilities"), fixed[0])


def names_of(
    answer: Field, classes: tuple[str | int | float | bool, ...] | None
) -> tuple[str, ...]:
    """What the numbers of the answer are called: by their classes, by their places, or as it."""
    width = answer.shape[0] if answer.shape else 1
    if classes and answer.name == "probabilities" and len(classes) == width:
        return tuple(str(label) for label in classes)
    return (answer.name,) if width == 1 else tuple(f"{answer.name}.{k}" for k in range(width))


def about(coalitions: Coalitions, background: int) -> str:
    """One sentence on what the numbers are."""
    what = f"Shapley values against {background} training rows"
    if coalitions.is_exact:
        return f"{what}, exact over all {len(coalitions.masks)} coalitions of columns"
    return f"{what}, estimated from {coalitions.pairs_used} pairs of permutations of the columns"


def _error(sources: Sources, answer: str, coalitions: Coalitions, background: Columns) -> float:
    """The 95th percentile of the errors of attributions, in units of the answer."""
    rows = sources.subject.test or sources.subject.train
    assert rows is not None
    few = take(rows.columns, slice(_ROWS))
    many = 0 if coalitions.players <= _MOST_EXACT else _FINER * coalitions.pairs_used
    reference = Coalitions(coalitions.players, pairs=many)
    values = [
        Game(sources.program, answer, background, asked).shapley(few).values
        for asked in (coalitions, reference)
    ]
    return float(np.quantile(np.abs(values[0] - values[1]), 0.95))
