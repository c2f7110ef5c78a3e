"""Packs explanations by sampling: background rows, and how far sampled attributions may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, is_missing, take
from bascule.bundle.explaining import (
    Coalitions,
    Explanation,
    Sampled,
    column_places,
    usual_pairs,
)
from bascule.core import Columns, Field, Unconvertible
from bascule.packing.explaining.making import Method, Sources

SAMPLED_BACKGROUND = 32
_MAX_PLAYERS, _MAX_OUTPUTS = 500, 50
_MOST_EXACT, _FINER = 10, 8
"""The error is measured against all coalitions of so many columns, or so many times the pairs."""
_TABLE = "explanations are of numbers that a model answers to rows of columns"
_ROWS = 8
"""That are compared and timed: a row asks the program thousands of times."""
_MOST_BYTES = 2e9
"""Of the program, once for each row that it is asked: about 0.1 s of a processor."""


def make(sources: Sources) -> Method:
    """See `Maker`: for a tabular model that is compiled, with training rows."""
    subject, program = sources.subject, sources.program
    columns = tuple(place.name for place in column_places(subject.signature))
    if not columns or len(columns) > _MAX_PLAYERS:
        raise Unconvertible(f"the model does not take 1 to {_MAX_PLAYERS} columns", hint=_TABLE)
    if subject.train is None or not len(subject.train):
        raise Unconvertible("there are no training rows", hint="pass train=")
    own = (subject.original, subject.reopened)
    if program.may_block or (subject.saved_format != "onnx" and program in own):
        raise Unconvertible("the model is not compiled", hint="see why under Parity on the card")
    answer, pairs = answer_of(sources.outputs), usual_pairs(len(columns))
    count = min(sources.background or SAMPLED_BACKGROUND, len(subject.train))
    chosen = np.random.default_rng(0).choice(len(subject.train), count, replace=False)
    background = for_program(take(subject.train.columns, np.sort(chosen)), program.inputs)
    coalitions = len(Coalitions.of_pairs(len(columns), pairs).masks) if pairs else 2 ** len(columns)
    # By counts and no clock: the same model gives the same bundle on every machine.
    size, evaluations = sources.program_bytes, coalitions * count
    if size * evaluations > _MOST_BYTES:
        raise Unconvertible(
            f"an explanation of one row would ask a program of {size / 1e6:.1f} MB for "
            f"{evaluations:,} rows",
            hint="pass explain=8 for fewer background rows",
        )
    how = f"from {pairs} pairs of permutations" if pairs else "exact"
    explanation = Explanation(
        method="sampling", link="identity", answer=answer.name, columns=columns,
        outputs=names_of(answer, subject.classes), tolerance=sources.tolerance,
        about=f"Shapley values against {count} training rows, {how}", background_rows=count,
        settings={
            "pairs": pairs,
            "rows": [_listed(background[field.name]) for field in program.inputs],
        },
    )  # fmt: skip
    few = take((subject.test or subject.train).columns, slice(_ROWS))
    return Method(explanation, {}, _error(sources, explanation, few) if pairs else None, _ROWS)


def answer_of(outputs: Sequence[Field]) -> Field:
    """The output that is explained: probabilities, else the first number or short vector."""
    fixed = [
        field
        for field in outputs
        if field.dtype.is_float
        if not field.shape or (len(field.shape) == 1 and 0 < field.shape[0] <= _MAX_OUTPUTS)
    ]
    if not fixed:
        raise Unconvertible(f"no output is a number or up to {_MAX_OUTPUTS}", hint=_TABLE)
    return next((field for field in fixed if field.name == "probabilities"), fixed[0])


def names_of(
    answer: Field, classes: Sequence[object] | None, count: int | None = None
) -> tuple[str, ...]:
    """What the numbers of an answer are called: by their classes, by their places, or as it.

    So many margins of it are called the same; one of two classes is of the second.
    """
    count = count or math.prod(answer.shape)
    if classes and answer.name == "probabilities" and count in (1, len(classes)):
        return tuple(map(str, classes[-count:]))
    return (answer.name,) if count == 1 else tuple(f"{answer.name}.{k}" for k in range(count))


def _listed(values: NDArray[Any]) -> Any:
    """For JSON: None for what is missing. Raises `Unconvertible` where a number is infinite."""
    listed = values.astype(object)
    listed[is_missing(values)] = None
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise Unconvertible("a training row holds an infinite number", hint="leave it out")
    return listed.tolist()


def _error(sources: Sources, explanation: Explanation, rows: Columns) -> float:
    """The 95th percentile of the errors of attributions, in units of the answer."""
    pairs = explanation.settings["pairs"]
    finer = 0 if len(explanation.columns) <= _MOST_EXACT else _FINER * pairs
    sampled, reference = (
        Sampled(
            replace(explanation, settings={**explanation.settings, "pairs": own}),
            {},
            lambda: sources.program,
        ).attributions(rows)
        for own in (pairs, finer)
    )
    return float(np.quantile(np.abs(sampled - reference), 0.95))
