"""Models that learn a few rows at a time, of river and of scikit-learn, and how they are packed.

River's logistic regression after its scaler becomes the same model of scikit-learn, which is
compiled. Any other of river is packed as code of the user's own, with the model beside it.
"""

from __future__ import annotations

import itertools
import pickle
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """A `random.Random()` without a seed has one of `number` and a count, not one of the system.

    River's distributions have one each, which would be in the pickle of the model.
    """
    real, count = random.Random.seed, itertools.count()

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        real(self, f"{number} {next(count)}" if a is None else a, version)

    random.Random.seed = seed  # type: ignore[method-assign]
    try:
        yield
    finally:
        random.Random.seed = real  # type: ignore[method-assign]


def tested_then_learnt(
    model: Any, inputs: pa.Table, truths: Sequence[Any], classes: Sequence[Any]
) -> list[Any]:
    """What the model answers to rows before it learns them; None for no answer.

    A model of river answers and learns row by row; others answer all rows and then learn those of
    them that lack no input. Rows without a truth are answered alone.
    """
    is_known = [truth is not None for truth in truths]
    if _is_of_river(model):
        answers = []
        for row, truth, has_truth in zip(_river_rows(inputs), truths, is_known, strict=True):
            answers.append(_river_answer(model, row, classes))
            if has_truth:  # of two classes, river's own form is whether it is the second
                model.learn_one(row, truth == classes[1] if len(classes) == 2 else truth)
        return answers
    answers = answers_of(model, inputs, classes)
    frame = inputs.to_pandas()
    learnt = frame.notna().all(axis=1).to_numpy() & is_known
    if learnt.any():
        known = [truth for truth, is_learnt in zip(truths, learnt, strict=True) if is_learnt]
        model.partial_fit(frame[learnt], known, classes=list(classes))
    return answers


def answers_of(model: Any, inputs: pa.Table, classes: Sequence[Any]) -> list[Any]:
    """Classes; None where the model has no answer yet."""
    if _is_of_river(model):
        return [_river_answer(model, row, classes) for row in _river_rows(inputs)]
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    answers: list[Any] = [None] * len(inputs)
    frame = inputs.to_pandas()
    whole = frame.notna().all(axis=1).to_numpy().nonzero()[0]
    try:
        check_is_fitted(model)
    except NotFittedError:
        return answers
    if len(whole):
        for place, answer in zip(whole, model.predict(frame.iloc[whole]).tolist(), strict=True):
            answers[place] = answer
    return answers


def packable(model: Any, classes: Sequence[Any], names: Sequence[str], folder: Path) -> Any:
    """What `pack` takes for a model of columns of these names; its file is laid into a folder."""
    if not _is_of_river(model):
        return model
    from importlib.metadata import version

    from river.linear_model import LogisticRegression
    from river.preprocessing import StandardScaler

    from bascule.packing import PythonModel

    steps = list(getattr(model, "steps", {}).values())
    if len(classes) == 2 and [type(step) for step in steps] == [StandardScaler, LogisticRegression]:
        return _as_sklearn(steps[0], steps[1], classes, names)
    file = folder / "model.pkl"
    file.write_bytes(pickle.dumps((model, tuple(classes))))
    return PythonModel(
        entry="served_river:Model", code=Path(__file__).with_name("served_river.py"),
        files={file.name: file}, requirements=(f"river=={version('river')}",),
        classes=tuple(classes), task="classification",
    )  # fmt: skip


def _as_sklearn(scaler: Any, linear: Any, classes: Sequence[Any], names: Sequence[str]) -> Any:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    first, last = StandardScaler(with_std=scaler.with_std), LogisticRegression()
    first.mean_ = np.array([scaler.means[name] for name in names])
    first.var_ = np.array([scaler.vars[name] for name in names])
    varies = first.var_ > 0 if scaler.with_std else np.ones(len(names), bool)
    first.scale_ = np.where(varies, np.sqrt(first.var_), 1.0) if scaler.with_std else None
    first.n_samples_seen_ = max(scaler.counts.values())
    weights = np.array([linear.weights.get(name, 0.0) for name in names])
    last.coef_ = np.where(varies, weights, 0.0)[None]  # river scales what does not vary to 0
    last.intercept_, last.n_iter_ = np.array([float(linear.intercept)]), np.array([1])
    last.classes_ = np.array(classes)
    first.feature_names_in_ = np.array(names, object)
    first.n_features_in_ = last.n_features_in_ = len(names)
    return Pipeline([("scale", first), ("predict", last)])


def _is_of_river(model: Any) -> bool:
    if hasattr(model, "learn_one") or hasattr(model, "partial_fit"):
        return hasattr(model, "learn_one")
    raise Invalid(
        f"{type(model).__name__} has neither learn_one nor partial_fit",
        hint="begin with a model of river, or with one such as an SGDClassifier",
    )


def _river_rows(inputs: pa.Table) -> list[dict[str, Any]]:
    """A value that is missing is left out, as river has it.

    Equal texts are one object: which of them are would be in the pickle of the model.
    """
    columns = {sys.intern(name): inputs[name].to_pylist() for name in inputs.column_names}
    return [
        {
            name: sys.intern(value) if isinstance(value, str) else value
            for name, value in zip(columns, row, strict=True)
            if value is not None and value == value
        }
        for row in zip(*columns.values(), strict=True)
    ]


def _river_answer(model: Any, row: dict[str, Any], classes: Sequence[Any]) -> Any:
    answer = model.predict_one(row)
    return classes[int(answer)] if len(classes) == 2 and answer is not None else answer
