"""Profiles the training rows, and the answers to held-out rows, while a model is packed."""

from __future__ import annotations

from bascule.bundle.disk import BASELINE
from bascule.bundle.statements import (
    Baseline,
    answer_columns,
    column_names,
    profile_columns,
    profile_of,
)
from bascule.core import BasculeError, Columns, canonical_json
from bascule.packing.imported import ImportedModel
from bascule.packing.statements.calibrating import Answers
from bascule.stats import worth_projecting


def profile(answers: Answers, subject: ImportedModel) -> tuple[str, dict[str, bytes]]:
    """The baseline of a model, as far as there are rows for it.

    Returns:
        One sentence: what was profiled, or why nothing was. And what goes into the bundle.
    """
    inputs = outputs = None
    if subject.train is not None and len(subject.train):
        signature = subject.signature
        columns = subject.train.columns
        projected = _worth_projecting(columns, subject)
        inputs = profile_of(
            profile_columns(columns, signature.inputs, signature.columns, projected)
        )
    if subject.test is not None and len(subject.test):
        try:
            answered = answers(subject.test)
        except BasculeError as problem:
            return f"no baseline: {problem.message}", {}
        fields = answers.program.outputs
        projected = _worth_projecting(answered, subject)
        outputs = profile_of(
            answer_columns(answered, fields, subject.classes, subject.targets, projected)
        )
    if inputs is None and outputs is None:
        return "no baseline: there are no rows", {}
    made = Baseline(inputs, outputs)
    profiled = len(inputs.columns) if inputs else 0
    told = f"profiled {profiled} columns of {inputs.rows if inputs else 0:,} training rows"
    if outputs is not None:
        told += f", and the answers to {outputs.rows:,} held-out ones"
    return told, {BASELINE: canonical_json(made.to_json())}


def _worth_projecting(columns: Columns, subject: ImportedModel) -> list[str]:
    """Fields of free texts or many values; labels and other texts that a model answers are none."""
    inputs = {field.name for field in subject.signature.inputs}
    names = column_names(subject.signature, subject.classes, subject.targets)
    return [
        field
        for field, values in columns.items()
        if field in inputs or values.dtype != object
        if worth_projecting(values, names.get(field, ()))
    ]
