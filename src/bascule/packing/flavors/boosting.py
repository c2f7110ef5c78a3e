"""What the flavors of XGBoost, LightGBM and CatBoost share.

A boosted model is saved in its library's own format, which holds trees and no code. The original
that is compared, measured and served is always the one that was read back from those bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Kind, Table, as_dtype, take
from bascule.bundle.disk import CLASSIFICATIONS, REGRESSIONS, Manifest, Target
from bascule.bundle.originals import (
    BoostedOriginal,
    Frame,
    ask_of,
    built,
    of_both_classes,
    version_of,
)
from bascule.core import Columns, DType, Field, Invalid, ModelFailed, Program, Signature, first_line
from bascule.packing.flavors.tabular import (
    as_trained,
    fields_of,
    frame_of,
    must_answer,
    names_of_targets,
    optional_booleans,
    outputs_of,
    outputs_of_targets,
    read_inputs,
    read_truth,
    rows_of,
    table_names,
)
from bascule.packing.imported import ImportedModel, Rows
from bascule.packing.probing import LARGEST_FLOAT, probed
from bascule.stats import LOWER_QUANTILE, UPPER_QUANTILE

AskOwn = Callable[[Any], Mapping[str, Any]]
"""Asks a model about a table or matrix by the methods that its author calls: by outputs' names."""


@dataclass(frozen=True, slots=True)
class Boosted:
    """One boosted model, as its flavor reads it.

    Attributes:
        kind: The name of its class.
        library: The distribution that it needs.
        classes: The labels of a classifier; None for everything else.
        names: What it calls its columns; None if it was fitted on a matrix.
        count: How many columns it has.
        saved: Its bytes in the library's own format.
        saved_file: Where they go in the bundle.
        saved_format: What they are.
        number: The type in which the library gives numbers.
        handed_over: In which type the library is handed numbers, given what it was trained on:
            `float32`, `float64`, or `int64` for doubles of which whole ones are rounded to floats.
        parameters: Its settings, as text.
        own: Asks the model itself, as its author does.
        overrides: The methods that it has in place of the library's, which a saved model has not.
        extra: What else is needed to ask it, kept with the recipe of its frame.
        refuses_unseen: Whether the library refuses a category that the training table lacks, or
            takes it for another one, as XGBoost does with whole numbers between those listed.
        refuses_infinite: Whether its author's way of asking refuses what is infinite as a float.
        task: What it is for, where its classes do not say.
        answers: How many things it predicts.
        parts: The names of its numbers, where several are of one truth or one is no prediction.
    """

    kind: str
    library: str
    classes: tuple[str | int | float | bool, ...] | None
    names: Sequence[str] | None
    count: int
    saved: bytes
    saved_file: str
    saved_format: str
    number: DType
    handed_over: Callable[[Table], str]
    parameters: Mapping[str, str]
    own: AskOwn
    overrides: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    refuses_unseen: bool = False
    refuses_infinite: bool = False
    task: str = ""
    answers: int = 1
    parts: tuple[str, ...] = ()

    @property
    def is_several(self) -> bool:
        """Whether its numbers are answers of their own, and no scores of classes."""
        return max(self.answers, len(self.parts)) > 1


def read_boosted(model: Boosted, train: Any, test: Any) -> ImportedModel:
    """Infer the signature from the training rows and by asking the model.

    Raises:
        Invalid: There are no training rows, or the model does not answer for them; or it answers
            by methods of its author's.
    """
    if model.overrides:
        raise Invalid(
            f"{model.kind} has its own {model.overrides[0]}, which {model.library} does not save",
            hint="pass code=['FILE.py'] (--code FILE.py), the file with its class, so that the "
            "bundle keeps that; or pack it as a bascule.PythonModel",
            methods=list(model.overrides),
        )
    read = read_inputs(train, "train")
    task, targets = _task(model, train, test)
    truth = read_truth(train, "train", rows=read.rows, targets=model.answers, task=task)
    table = as_trained(model.names, model.count, read)
    outputs, numbers = _outputs(model, targets)
    recipe = {**_frame(table, model).to_json(), **model.extra}
    if model.is_several:
        recipe["numbers"] = numbers
    ask = ask_of(model.saved, model.saved_format, recipe, 1)
    frame = Frame.from_json(recipe)

    def answer(columns: Columns) -> Any:
        made = ask(built(frame, columns))
        return made if made.ndim == 1 or model.is_several else made.argmax(axis=1)

    must_answer(answer, table.columns, targets=max(model.answers, len(model.parts)))
    found = probed(fields_of(table), table.columns, answer, optional_booleans(table))
    inputs = tuple(_narrowed(one, model, frame.kinds.get(one.name)) for one in found)
    columns = table_names(train) if table.is_matrix else ()
    signature = Signature(inputs, outputs, columns)
    held_out: Rows | None = None
    if test is not None:
        test_table = read_inputs(test, "test")
        test_truth = read_truth(
            test, "test", rows=test_table.rows, targets=model.answers, task=task
        )
        conformed = as_trained(model.names, model.count, test_table)
        held_out = rows_of(conformed, test_truth, signature, test)
    needed = {model.library, "numpy"} | ({"pandas"} if frame.container == "pandas" else set())
    classes = None if targets else model.classes
    saved = BoostedOriginal(ask, frame, signature, classes, recipe)
    live = OwnAnswers(_by_output(model, outputs, numbers), frame_of(table), saved)
    return ImportedModel(
        task=task,
        classes=classes,
        targets=targets,
        signature=signature,
        original=live if live.answers(table.columns) else saved,
        ask=live.ask,
        saved=model.saved,
        saved_file=model.saved_file,
        saved_format=model.saved_format,
        requires={name: version_of(name) for name in sorted(needed)},
        frame=recipe,
        train=rows_of(table, truth, signature, train),
        test=held_out,
        parameters=model.parameters,
        reopened=saved,
    )


def _task(model: Boosted, train: Any, test: Any) -> tuple[str, tuple[Target, ...]]:
    """What the model is for, and what each of several predicted things is."""
    if model.answers == 1:
        usual = "regression" if model.classes is None else "classification"
        return model.task or usual, ()
    names = names_of_targets(model.answers, train, test)
    task = REGRESSIONS if model.classes is None else CLASSIFICATIONS
    return task, tuple(Target(name, model.classes) for name in names)


def _by_output(model: Boosted, outputs: Sequence[Field], numbers: Sequence[int]) -> AskOwn:
    """Asks the model itself, each output of several by its own name."""
    if model.classes is not None and not model.is_several:
        return model.own

    def ask(rows: Any) -> Mapping[str, Any]:
        answered = {kind: np.asarray(values) for kind, values in model.own(rows).items()}
        if not model.is_several:
            return {outputs[0].name: answered["prediction"]}
        made = {}
        for output, place in zip(outputs, numbers, strict=True):
            kind = output.name.partition(".")[0] if model.classes else "prediction"
            values = answered[kind][:, place]
            made[output.name] = of_both_classes(values) if kind == "probabilities" else values
        return made

    return ask


def with_classes(booster: Any, manifest: Manifest) -> Any:
    """A native booster with the labels of the estimator that it was in; it keeps none itself."""
    if manifest.classes is not None:
        booster.classes_ = np.asarray(manifest.classes)
    return booster


class OwnAnswers(Program):
    """The model that was handed in, asked by the methods that its author calls."""

    name = "original"

    def __init__(self, own: AskOwn, frame: Frame, saved: BoostedOriginal) -> None:
        self.inputs = saved.inputs
        self.outputs = saved.outputs
        self._own = own
        self._frame = frame
        self._saved = saved

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        try:
            answered = self.ask(self._frame.build(columns, listed_only=True))
        except Exception as problem:
            raise ModelFailed(f"the original failed: {first_line(problem)}") from problem
        missing = [one.name for one in self.outputs if one.name not in answered]
        if missing:
            answered = {**self._saved.run(columns, missing), **answered}
        return {one.name: answered[one.name] for one in self.outputs
                if outputs is None or one.name in outputs}  # fmt: skip

    def ask(self, rows: Any) -> Columns:
        """What the model answers about rows in any container that it takes."""
        answered = self._own(rows)
        return {
            one.name: as_dtype(np.asarray(answered[one.name]).reshape(-1, *one.shape), one.dtype)
            for one in self.outputs
            if one.name in answered
        }

    def answers(self, columns: Columns) -> bool:
        """Whether the model takes the training rows as they are rebuilt."""
        try:
            self.run(take(columns, slice(3)))
        except ModelFailed:
            return False
        return True


def ask_estimator(model: Any, classifies: bool, rows: Any) -> Mapping[str, Any]:
    """An estimator about rows as its author asks it."""
    if not classifies:
        return {"prediction": model.predict(rows)}
    return {"label": model.predict(rows), "probabilities": model.predict_proba(rows)}


def of_numbers(
    numbers: NDArray[Any], classes: Sequence[Any] | None, answers_second: bool
) -> Mapping[str, Any]:
    """The outputs of a native booster, from the numbers that are all that it answers."""
    if classes is None:
        return {"prediction": numbers}
    shares = of_both_classes(numbers) if answers_second else numbers
    return {"label": np.asarray(classes)[shares.argmax(axis=1)], "probabilities": shares}


def categories_of(recipe: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The categories of the columns that had a categorical type."""
    kinds = Frame.from_json(recipe).kinds
    return {name: kind.categories for name, kind in kinds.items() if kind.categories is not None}


def classes_of(subject: ImportedModel) -> tuple[Any, ...] | None:
    """The labels of a classifier, or those that each of several answers has."""
    return subject.targets[0].classes if subject.targets else subject.classes


def reads_floats(recipe: Mapping[str, Any]) -> bool:
    """Whether the library is handed floats."""
    return str(recipe["dtype"]) == "float32"


def rounds_whole(recipe: Mapping[str, Any]) -> bool:
    """Whether the library is handed doubles of which whole ones are rounded to floats."""
    return str(recipe["dtype"]) == "int64"


def _frame(table: Table, model: Boosted) -> Frame:
    frame = frame_of(table)
    if any(column.dtype.kind == "O" for column in table.columns.values()) or any(
        kind.categories is not None for kind in frame.kinds.values()
    ):
        if frame.container != "pandas":
            raise Invalid(
                f"train has categories in a {frame.container} table, and {model.library} is asked "
                "about those in a pandas one",
                hint="pass a pandas DataFrame whose columns have the type category",
            )
        return frame
    return Frame("numpy", {}, model.handed_over(table))


def _narrowed(read: Field, model: Boosted, kind: Kind | None) -> Field:
    """The field without the values that the library refuses from its author.

    Asking does not find them: the rebuilt table has no new categories, and a matrix is asked about
    in place.
    """
    listed = kind.categories if kind is not None and model.refuses_unseen else None
    if (
        listed
        and (read.dtype is DType.BYTES) == isinstance(listed[0], str)
        and (read.dtype is not DType.BOOL)
    ):
        return replace(read, categories=tuple(sorted(listed)))
    if model.refuses_infinite and read.dtype.is_float and read.bounds is None:
        return replace(read, bounds=(-LARGEST_FLOAT, LARGEST_FLOAT))
    return read


def _outputs(model: Boosted, targets: tuple[Target, ...]) -> tuple[tuple[Field, ...], list[int]]:
    """The outputs, and of which of the model's numbers each is made."""
    if targets:
        fields = outputs_of_targets(targets, probabilities=model.classes is not None)
        typed = [replace(f, dtype=model.number) if f.dtype.is_float else f for f in fields]
        return tuple(typed), [place % len(targets) for place in range(len(fields))]
    if model.classes is None:
        parts = model.parts or ("prediction",)
        order = sorted(range(len(parts)), key=lambda place: parts[place] != "prediction")
        return tuple(Field(parts[place], model.number) for place in order), order
    label, shares = outputs_of(model.classes, probabilities=True)
    return (label, Field(shares.name, model.number, shares.shape)), []


def of_quantiles(shares: Sequence[float]) -> tuple[str, tuple[str, ...]]:
    """The task of a model of several quantiles, and what its numbers are called.

    The median is its prediction; of the ends intervals can be made (`stats.conformal`, `cqr`).
    """
    known = {min(shares): LOWER_QUANTILE, max(shares): UPPER_QUANTILE, 0.5: "prediction"}
    names = tuple(known.get(share, f"quantile_{share:g}") for share in shares)
    return "regression" if 0.5 in shares else "other", names
