"""Profiles the training rows, and the answers to held-out rows, while a model is packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bascule.bundle.disk import BASELINE
from bascule.bundle.imported import ImportedModel
from bascule.bundle.statements.baseline import Baseline, flat_columns
from bascule.bundle.statements.calibrating import Answers
from bascule.core import BasculeError, Columns, canonical_json
from bascule.stats import CHUNK_ROWS, Profile


@dataclass(frozen=True, slots=True)
class Profiled:
    """What became of the baseline.

    Attributes:
        told: One sentence: what was profiled, or why nothing was.
        files: What goes into the bundle.
    """

    told: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def nothing() -> Profiled:
    """For a caller who wants none."""
    return Profiled("no baseline, as asked")


def profile(answers: Answers, subject: ImportedModel) -> Profiled:
    """The baseline of a model, as far as there are rows for it."""
    inputs = outputs = None
    if subject.train is not None and len(subject.train):
        signature = subject.signature
        inputs = profile_of(
            flat_columns(subject.train.columns, signature.inputs, signature.columns)
        )
    if subject.test is not None and len(subject.test):
        try:
            answered = answers(subject.test)
        except BasculeError as problem:
            return Profiled(f"no baseline: {problem.message}")
        outputs = profile_of(_answer_columns(answered, answers, _labels(subject)))
    if inputs is None and outputs is None:
        return Profiled("no baseline: there are no rows")
    made = Baseline(inputs, outputs)
    profiled = len(inputs.columns) if inputs else 0
    told = f"profiled {profiled} columns of {inputs.rows if inputs else 0:,} training rows"
    if outputs is not None:
        told += f", and the answers to {outputs.rows:,} held-out ones"
    return Profiled(told, {BASELINE: canonical_json(made.to_json())})


def profile_of(columns: Columns) -> Profile:
    """The profile of whole columns; a piece of the rows is copied at a time."""
    rows = len(next(iter(columns.values())))
    made = Profile()
    for start in range(0, rows, CHUNK_ROWS):
        made.add({name: values[start : start + CHUNK_ROWS] for name, values in columns.items()})
    return made


def _labels(subject: ImportedModel) -> dict[str, tuple[str, ...]]:
    """The classes behind each output of probabilities."""
    made = {"probabilities": subject.classes or ()}
    made |= {f"probabilities.{target.name}": target.classes or () for target in subject.targets}
    return {name: tuple(str(label) for label in classes) for name, classes in made.items()}


def _answer_columns(
    answered: Columns, answers: Answers, labels: Mapping[str, tuple[str, ...]]
) -> Columns:
    """The answers; probabilities apart, each under its class."""
    made: Columns = {}
    for field_ in answers.program.outputs:
        classes = labels.get(field_.name, ())
        of_classes = bool(classes) and field_.shape == (len(classes),)
        names = tuple(f"{field_.name}.{label}" for label in classes) if of_classes else ()
        made.update(flat_columns(answered, (field_,), names))
    return made
