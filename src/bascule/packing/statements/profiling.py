"""Profiles the training rows, and the answers to held-out rows, while a model is packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bascule.bundle.disk import BASELINE
from bascule.bundle.statements import Baseline, answer_columns, profile_columns, profile_of
from bascule.core import BasculeError, canonical_json
from bascule.packing.imported import ImportedModel
from bascule.packing.statements.calibrating import Answers


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
            profile_columns(subject.train.columns, signature.inputs, signature.columns)
        )
    if subject.test is not None and len(subject.test):
        try:
            answered = answers(subject.test)
        except BasculeError as problem:
            return Profiled(f"no baseline: {problem.message}")
        fields = answers.program.outputs
        outputs = profile_of(answer_columns(answered, fields, subject.classes, subject.targets))
    if inputs is None and outputs is None:
        return Profiled("no baseline: there are no rows")
    made = Baseline(inputs, outputs)
    profiled = len(inputs.columns) if inputs else 0
    told = f"profiled {profiled} columns of {inputs.rows if inputs else 0:,} training rows"
    if outputs is not None:
        told += f", and the answers to {outputs.rows:,} held-out ones"
    return Profiled(told, {BASELINE: canonical_json(made.to_json())})
