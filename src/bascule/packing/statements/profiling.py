"""Profiles the training rows, and the answers to held-out rows, while a model is packed."""

from __future__ import annotations

from bascule.bundle.disk import BASELINE
from bascule.bundle.statements import Baseline, answer_columns, profile_columns, profile_of
from bascule.core import BasculeError, canonical_json
from bascule.packing.imported import ImportedModel
from bascule.packing.statements.calibrating import Answers


def profile(answers: Answers, subject: ImportedModel) -> tuple[str, dict[str, bytes]]:
    """The baseline of a model, as far as there are rows for it.

    Returns:
        One sentence: what was profiled, or why nothing was. And what goes into the bundle.
    """
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
            return f"no baseline: {problem.message}", {}
        fields = answers.program.outputs
        outputs = profile_of(answer_columns(answered, fields, subject.classes, subject.targets))
    if inputs is None and outputs is None:
        return "no baseline: there are no rows", {}
    made = Baseline(inputs, outputs)
    profiled = len(inputs.columns) if inputs else 0
    told = f"profiled {profiled} columns of {inputs.rows if inputs else 0:,} training rows"
    if outputs is not None:
        told += f", and the answers to {outputs.rows:,} held-out ones"
    return told, {BASELINE: canonical_json(made.to_json())}
