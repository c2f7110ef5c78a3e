"""Models that learn a few rows at a time, of river and of scikit-learn: saved and packed.

River's logistic or linear regression after its scaler becomes the same model of scikit-learn, which
is compiled. Any other of river is packed as code of the user's own, with the model beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.bundle.originals import load_trusted
from bascule.core import Invalid, Untrusted
from bascule.packing.flavors import save
from bascule.training import served_river

if TYPE_CHECKING:
    import pyarrow as pa


def saved(model: Any) -> bytes:
    """The model as JSON where it is of river, else in skops' form. Equal models have equal bytes.

    Raises `Invalid` where a part of it is of neither library.
    """
    if not _is_of_river(model):
        return save(model)
    try:
        return served_river.saved(model)
    except TypeError as problem:
        raise Invalid(str(problem), hint="build the model from river's own parts") from None


def opened(data: bytes, seed: int = 0) -> Any:
    """What was saved; `seed` is for generators of river without one of their own.

    Raises `Untrusted` where the bytes name anything but models of the two libraries.
    """
    if data[:1] != b"[":
        return load_trusted(data, "the learner's model")
    try:
        return served_river.opened(data, seed)
    except Exception as problem:  # of bytes that were changed, any
        hint = "bring the learner's state back from a backup, or move it away and begin anew"
        raise Untrusted(f"the learner's model cannot be read: {problem}", hint=hint) from problem


def tested_then_learnt(
    model: Any, inputs: pa.Table, truths: Sequence[Any], classes: Sequence[Any]
) -> list[Any]:
    """What the model answers to rows before it learns them; None for no answer.

    A model of river answers and learns row by row; others answer all rows and then learn those of
    them that lack no input. Rows without a truth are answered alone. No classes: truths are
    numbers.
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
        model.partial_fit(frame[learnt], known, **({"classes": list(classes)} if classes else {}))
    return answers


def answers_of(model: Any, inputs: pa.Table, classes: Sequence[Any]) -> list[Any]:
    """Classes or numbers; None where the model has no answer yet."""
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

    from river.linear_model import LinearRegression, LogisticRegression
    from river.optim.losses import Log, Squared
    from river.preprocessing import StandardScaler

    from bascule.packing import PythonModel

    steps = list(getattr(model, "steps", {}).values())
    kinds: list[Any] = [type(step) for step in steps]
    kinds += [type(getattr(step, "loss", None)) for step in steps[1:]]  # others answer otherwise
    compiled = {2: (LogisticRegression, Log), 0: (LinearRegression, Squared)}
    if kinds == [StandardScaler, *compiled.get(len(classes), ())]:
        return _as_sklearn(steps[0], steps[1], classes, names)
    file = folder / "model.json"
    file.write_bytes(served_river.saved((model, tuple(classes))))
    return PythonModel(
        entry="served_river:Model", code=served_river.__file__, files={file.name: file},
        requirements=(f"river=={version('river')}",), classes=tuple(classes) or None,
        task="classification" if classes else "regression",
    )  # fmt: skip


def _as_sklearn(scaler: Any, linear: Any, classes: Sequence[Any], names: Sequence[str]) -> Any:
    import numpy as np
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    first = StandardScaler(with_std=scaler.with_std)
    last = LogisticRegression() if classes else LinearRegression()
    first.mean_ = np.array([scaler.means[name] for name in names])
    first.var_ = np.array([scaler.vars[name] for name in names])
    varies = first.var_ > 0 if scaler.with_std else np.ones(len(names), bool)
    first.scale_ = np.where(varies, np.sqrt(first.var_), 1.0) if scaler.with_std else None
    first.n_samples_seen_ = max(scaler.counts.values())
    weights = np.array([linear.weights.get(name, 0.0) for name in names])
    last.coef_ = np.where(varies, weights, 0.0)  # river scales what does not vary to 0
    last.intercept_ = float(linear.intercept)
    if classes:
        last.coef_, last.intercept_ = last.coef_[None], np.array([last.intercept_])
        last.n_iter_, last.classes_ = np.array([1]), np.array(classes)
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
    return served_river.rows_of({name: inputs[name].to_pylist() for name in inputs.column_names})


def _river_answer(model: Any, row: dict[str, Any], classes: Sequence[Any]) -> Any:
    answer = model.predict_one(row)
    return classes[int(answer)] if len(classes) == 2 and answer is not None else answer
