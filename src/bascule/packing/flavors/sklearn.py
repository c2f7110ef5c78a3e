"""scikit-learn: estimators and pipelines, saved with skops, compiled to ONNX."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Kind, Table, take
from bascule.bundle.disk import CLASSIFICATIONS, OUTLIERS, RANKING, REGRESSIONS, Label, Target
from bascule.bundle.originals import (
    BOOSTED,
    PICKLE_FILE,
    PICKLE_FORMAT,
    Frame,
    SklearnOriginal,
    before_last_step,
    check_archive,
    check_estimator,
    distribution_of,
    installed_version,
    is_of,
    is_trusted,
    kind_name,
    open_archive,
    skops_io,
    version_of,
)
from bascule.core import (
    BasculeError,
    Columns,
    DType,
    Field,
    Invalid,
    Signature,
    Unconvertible,
    Untrusted,
    first_line,
)
from bascule.packing.compilers import check_methods, compilations
from bascule.packing.flavors.catboost import refuse_texts
from bascule.packing.flavors.own_code import Code, archive_of, check_child, pickled, to_archive
from bascule.packing.flavors.tabular import (
    as_trained,
    fields_of,
    frame_of,
    must_answer,
    names_of_targets,
    optional_booleans,
    outputs_of,
    outputs_of_detector,
    outputs_of_targets,
    parameters_of,
    plain_label,
    read_inputs,
    read_truth,
    rows_of,
    table_names,
)
from bascule.packing.imported import Compilation, ImportedModel
from bascule.packing.probing import probed

_FILE = "original/model.skops"
_OF_THE_PROCESS = {
    "_stop_words_id": "0",  # the address of a list of words that were found to be consistent
    "_n_threads": "1",  # of the machine that trained
    "memory": "null",  # where steps are cached while they are trained
    "refit_time_": "0.0",
}
"""Attributes of scikit-learn's estimators that say nothing of the model, and what is saved."""
_SAVED_WITH = re.compile(r"unpickle estimator \w+ from version (\S+) when")
_TREES_OF_NEIGHBOURS = ("KDTree", "KDTree32", "BallTree", "BallTree32")
_RANKERS = ("CatBoostRanker", "LGBMRanker", "XGBRanker")


class Sklearn:
    """See `packing.imported.Flavor`."""

    name = "sklearn"

    def __init__(self, code: Code | None = None) -> None:
        self._code = code or Code()

    def recognises(self, model: Any) -> bool:
        return hasattr(model, "get_params") and (
            hasattr(model, "predict") or hasattr(model, "fit_predict")
        )

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        with _of_another_version():
            return self._read(model, train, test)

    def _read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        kind = _kind_of(model)
        names = getattr(model, "feature_names_in_", None)
        count = getattr(model, "n_features_in_", None)
        given = read_inputs(train, "train")
        if names is None and not given.is_matrix and _reads_tables(model, given, count):
            count = None  # so that its columns stay columns
        table = _as_read(model, as_trained(names, count, given))
        if _reads_dicts(model):
            table = replace(table, source="dicts")
        frame = frame_of(table)

        def ask(columns: Columns) -> Any:
            return model.predict(frame.build(columns))

        outputs_count = _count_of_outputs(kind, ask, table)
        must_answer(ask, table.columns, targets=outputs_count)
        truth = read_truth(train, "train", rows=table.rows, targets=outputs_count, task=kind.task)
        task, targets = kind.task, _targets(kind, outputs_count, train, test)
        if targets:
            task = REGRESSIONS if targets[0].classes is None else CLASSIFICATIONS
        inputs = probed(fields_of(table), table.columns, ask, optional_booleans(table))
        signature = Signature(
            inputs,
            _outputs(
                model, task, kind.classes, targets, frame.build(take(table.columns, slice(1)))
            ),
            table_names(train) if table.is_matrix else (),
        )
        held_out = None
        if test is not None:
            test_table = read_inputs(test, "test")
            test_truth = read_truth(
                test, "test", rows=test_table.rows, targets=max(1, len(targets)), task=task
            )
            if task == OUTLIERS:
                _check_labels_of_detector(test_truth)
            test_table = as_trained(names, count, test_table)
            if frame.container == "texts":
                test_table = _as_texts(test_table, inputs[0].name)
            held_out = rows_of(test_table, test_truth, signature, test)
        original = SklearnOriginal(model, frame, signature)
        subject = ImportedModel(
            task=task,
            classes=kind.classes,
            targets=targets,
            signature=signature,
            original=original,
            ask=original.ask,
            saved=b"",
            saved_file=_FILE,
            saved_format="skops",
            frame=frame.to_json(),
            train=rows_of(table, truth, signature, train),
            test=held_out,
            parameters=parameters_of(model),
            decide=original.decide if hasattr(model, "decision_function") else None,
        )
        return self._with_saved(model, subject, frame)

    def _with_saved(self, model: Any, subject: ImportedModel, frame: Frame) -> ImportedModel:
        """The model in skops' form; else, where `code` is named, as a pickle beside its sources."""
        for part in model.get_params(deep=True).values():
            if is_of(part, "catboost"):
                refuse_texts(part)  # a pickle cannot hold those either
        try:
            saved = save(model)
        except Invalid as problem:
            made = pickled(model, self._code, problem.message)
        else:
            return replace(subject, saved=saved, requires=_requires(frame, _libraries(saved)))
        archive = archive_of(made, self._code)
        child = open_archive(archive, subject.frame, subject.signature)
        assert subject.train is not None
        check_child(subject.original, child, subject.train)
        return replace(
            subject,
            saved=archive,
            saved_file=PICKLE_FILE,
            saved_format=PICKLE_FORMAT,
            requires={**_requires(frame, []), **made.requires},
            reopened=child,
        )

    def compilations(self, model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        with _of_another_version():
            yield from self._compilations(model, subject)

    def _compilations(self, model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        frame = Frame.from_json(subject.frame)
        assert subject.train is not None
        few = frame.build(take(subject.train.columns, slice(3)))
        try:
            yield from compilations(model, subject.signature, sparse=_hands_over_sparse(model, few))
        except Unconvertible:
            if subject.saved_format != PICKLE_FORMAT or not _has_steps(model):
                raise
        if subject.saved_format == PICKLE_FORMAT and _has_steps(model):
            yield from _behind_steps(model, subject.signature, frame, few)


@contextmanager
def _of_another_version() -> Iterator[None]:
    """Tell what a model lacks that another scikit-learn has saved by both versions."""
    try:
        yield
    except (AttributeError, BasculeError) as problem:
        cause = problem.__cause__ if isinstance(problem, BasculeError) else problem
        saved_with, here = _saved_with(), installed_version("scikit-learn")
        if not isinstance(cause, AttributeError) or not (saved_with or cause is problem):
            raise
        version = saved_with or "of another version"
        raise Invalid(
            f"the model lacks what scikit-learn {here}, which is installed, gives to its models: "
            f"{first_line(cause)}; it was saved with scikit-learn {version}",
            hint=f"pip install 'scikit-learn=={saved_with or 'VERSION'}' and pack it there, or fit "
            "it again here: scikit-learn reads models of its own version alone",
        ) from cause


def _saved_with() -> str | None:
    """The other version of scikit-learn whose model this process has read last.

    An estimator that was read does not know it any more: `InconsistentVersionWarning` does, of
    which Python keeps the text where it was raised.
    """
    kept = getattr(sys.modules.get("sklearn.base"), "__warningregistry__", {})
    texts = (str(key[0]) for key in kept if isinstance(key, tuple))
    versions = [match[1] for text in texts if (match := _SAVED_WITH.search(text))]
    return versions[-1] if versions else None


def save(model: Any) -> bytes:
    """The model in skops' form, the same bytes for the same model.

    Raises:
        Invalid: It holds a type that would not be trusted when the bundle is loaded.
    """
    skops = skops_io()
    try:
        data = skops.dumps(model)
    except Exception as problem:
        raise Invalid(
            f"the model cannot be saved without pickle: {problem}",
            hint="replace the part that is not scikit-learn's own, such as a lambda",
        ) from problem
    strange = [name for name in skops.get_untrusted_types(data=data) if not is_trusted(name)]
    if strange:
        raise Invalid(
            f"the model holds {strange[0]}, which is not scikit-learn's own, so a bundle with it "
            "could not be loaded safely",
            hint="build the step from scikit-learn's estimators and numpy's functions",
            type=strange[0],
        )
    normalised = _normalised(data)
    check_archive(normalised, "the model")
    try:
        check_estimator(model, "the model")
    except Untrusted as problem:
        raise Invalid(
            f"{problem.message}, so a bundle with it could not be loaded safely",
            hint="replace that part by one of scikit-learn's own",
        ) from None
    return normalised


def _normalised(data: bytes) -> bytes:
    """The same archive with nothing in it that depends on memory addresses, order or time."""
    source = zipfile.ZipFile(io.BytesIO(data))
    schema = json.loads(source.read("schema.json"))
    times: set[str] = set()
    _forget_process(schema, times)
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    _renumber(schema, numbers, files)
    parts = {new: _same_for_equals(source.read(old), old in times) for old, new in files.items()}
    return to_archive({**parts, "schema.json": json.dumps(schema, separators=(",", ":")).encode()})


def _forget_process(node: Any, times: set[str]) -> None:
    """Take out what the process left in the model: counters, addresses, orders of sets.

    `times` collects the files that hold how long something took.
    """
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for part in parts:
        _forget_process(part, times)
    if not isinstance(node, dict):
        return
    if node.get("__class__") in _TREES_OF_NEIGHBOURS:
        # A tree of neighbours counts what it was asked, and is the same model all the while.
        for counter in node["content"]["content"][7:11]:
            counter["content"] = "0"
    elif node.get("__loader__") == "SetNode":
        node["content"].sort(key=_without_ids)
    elif node.get("__loader__") == "ObjectNode":
        held = node["content"].get("content") if isinstance(node["content"], dict) else None
        for name, part in held.items() if isinstance(held, dict) else ():
            _forget_attribute(name, part, times)


def _forget_attribute(name: str, part: Any, times: set[str]) -> None:
    if name in _OF_THE_PROCESS and part["__loader__"] == "JsonNode":
        part["content"] = _OF_THE_PROCESS[name]
    elif name == "stop_words" and part["__loader__"] == "ListNode":
        part["content"].sort(key=_without_ids)  # often made of a set; read as one
    elif name == "cv_results_" and part["__loader__"] == "DictNode":
        times |= {one["file"] for key, one in part["content"].items() if key.endswith("_time")}


def _without_ids(node: Any) -> str:
    """A text that is the same for equal parts of an archive."""
    return re.sub(r'"__id__": \d+', "", json.dumps(node, sort_keys=True))


def _same_for_equals(data: bytes, is_time: bool) -> bytes:
    """A file of the archive, the same bytes for the same content.

    The nodes of a tree are records with gaps between their fields, and numpy writes what the memory
    happened to hold there. CatBoost writes when a model was trained.
    """
    if data.startswith(b"CBM1"):
        from bascule.packing.flavors.catboost import normalised

        return normalised(data)
    if not data.startswith(b"\x93NUMPY"):
        return data
    held = np.load(io.BytesIO(data), allow_pickle=False)
    if is_time:
        return data[: len(data) - held.nbytes] + bytes(held.nbytes)
    if held.dtype.names is None:
        return data
    clean = np.zeros(held.shape, held.dtype)
    for name in held.dtype.names:
        clean[name] = held[name]
    return data[: len(data) - held.nbytes] + clean.tobytes()


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, list):
        for part in node:
            _renumber(part, numbers, files)
        return
    if not isinstance(node, dict):
        return
    if isinstance(node.get("__id__"), int) and "__loader__" in node:
        if node["__loader__"] == "JsonNode":
            # Plain values: whether two equal ones are one object is an accident of the process.
            numbers_id = numbers.setdefault(-len(numbers) - 1, len(numbers) + 1)
        else:
            numbers_id = numbers.setdefault(node["__id__"], len(numbers) + 1)
        node["__id__"] = numbers_id
    if isinstance(node.get("file"), str) and "__loader__" in node:
        suffix = node["file"].rpartition(".")[2]
        node["file"] = files.setdefault(node["file"], f"{len(files) + 1:06d}.{suffix}")
    for part in node.values():  # also of the keys "file" and "__id__": they may be words of texts
        _renumber(part, numbers, files)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an estimator says that it is."""

    task: str
    classes: tuple[Label, ...] | None = None
    each: tuple[tuple[Label, ...], ...] = ()


def _kind_of(model: Any) -> _Kind:
    from sklearn.base import is_classifier, is_outlier_detector, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    if not hasattr(model, "predict"):
        raise Invalid(
            f"{name} labels the rows that it was fitted on, and answers no others",
            hint="fit a LocalOutlierFactor with novelty=True, or pack another estimator",
        )
    try:
        check_is_fitted(model)
    except NotFittedError:
        # A class of the author's own may need none of what `fit` keeps: then it is asked.
        if type(model).__module__.partition(".")[0] == "sklearn":
            raise Invalid(
                f"{name} is not fitted", hint="call model.fit(X, y) before it is packed"
            ) from None
    except (AttributeError, TypeError) as problem:
        raise Invalid(
            f"{name} is no estimator of scikit-learn's kind: {str(problem).partition('. ')[0]}",
            hint=f"derive it: class {name}(RegressorMixin, BaseEstimator), or ClassifierMixin; or "
            "pack it as a bascule.PythonModel",
        ) from None
    if is_classifier(model):
        classes = model.classes_
        if not isinstance(classes, list):
            return _Kind("classification", tuple(plain_label(label) for label in classes))
        if len(classes) > 1 and not _gives_shares_apart(model, classes):
            raise Invalid(
                f"{name} predicts {len(classes)} outputs, and gives their probabilities as one "
                "matrix, which does not say whose they are",
                hint="use a MultiOutputClassifier, or pack one model per output",
            )
        each = tuple(tuple(plain_label(label) for label in one) for one in classes)
        return _Kind("classification", each=each)
    if not {kind.__name__ for kind in type(_last_of(model)).__mro__}.isdisjoint(_RANKERS):
        return _Kind(RANKING)
    if is_regressor(model):
        return _Kind("regression")
    if is_outlier_detector(model):
        return _Kind(OUTLIERS)
    classes = getattr(model, "classes_", None)
    if isinstance(classes, np.ndarray) and classes.ndim == 1:
        return _Kind("classification", tuple(plain_label(label) for label in classes))
    return _Kind("other")


def _last_of(model: Any) -> Any:
    while hasattr(model, "steps"):
        model = model.steps[-1][1]
    return model


def _gives_shares_apart(model: Any, classes: Sequence[Any]) -> bool:
    """Whether it is known whose the probabilities are: there is a matrix for each output.

    A chain of classifiers gives one for all, of the second of two classes.
    """
    model = _last_of(model)
    if type(model).__name__ == "ClassifierChain":
        return all(len(each) == 2 for each in classes)
    return type(model).__name__ != "StackingClassifier"


def _count_of_outputs(kind: _Kind, ask: Any, table: Table) -> int:
    if kind.each:
        return len(kind.each)
    if kind.task != "regression":
        return 1
    try:
        with warnings.catch_warnings(action="ignore"):
            answer = np.asarray(ask(take(table.columns, slice(1))))
    except Exception:  # what it says is told by `must_answer`
        return 1
    return int(answer.shape[1]) if answer.ndim == 2 else 1


def _targets(kind: _Kind, count: int, train: Any, test: Any) -> tuple[Target, ...]:
    """What each output is of: the columns of y where they have names, else numbers from 0."""
    if count == 1 and not kind.each:
        return ()
    names = names_of_targets(count, train, test)
    return tuple(
        Target(name, kind.each[place] if kind.each else None) for place, name in enumerate(names)
    )


def _outputs(
    model: Any, task: str, classes: tuple[Label, ...] | None, targets: tuple[Target, ...], row: Any
) -> tuple[Field, ...]:
    if task == OUTLIERS:
        return outputs_of_detector()
    if task == "other":
        return _outputs_of_other(model, row)
    probabilities = hasattr(model, "predict_proba")
    if targets:
        return outputs_of_targets(targets, probabilities=probabilities)
    return outputs_of(classes, probabilities=classes is not None and probabilities)


def _outputs_of_other(model: Any, row: Any) -> tuple[Field, ...]:
    """Of clusters and mixtures a `label` and `probabilities`; of anything else a `prediction`."""
    if np.asarray(model.predict(row)).dtype.kind not in "biu":
        return (Field("prediction", DType.FP64),)
    label = Field("label", DType.INT64)
    if not hasattr(model, "predict_proba"):
        return (label,)
    return (
        label,
        Field("probabilities", DType.FP64, np.asarray(model.predict_proba(row)).shape[1:]),
    )


def _check_labels_of_detector(truth: NDArray[Any] | None) -> None:
    if truth is not None and not set(truth.tolist()) <= {-1, 1}:
        raise Invalid(
            "y of test holds other values than -1 and 1",
            hint="a detector of outliers answers 1 for an inlier and -1 for an outlier; say what "
            "was true in the same way, or pass test=X",
        )


def _reads_dicts(model: Any) -> bool:
    """Whether a pipeline begins with a step for rows that are dicts."""
    first = model.steps[0][1] if kind_name(model) == "sklearn.pipeline.Pipeline" else model
    return type(first).__name__ in ("DictVectorizer", "FeatureHasher")


def _as_read(model: Any, table: Table) -> Table:
    """A table of one column of texts becomes the list of them where the model reads that."""
    if table.source == "texts" or table.is_matrix or len(table.columns) != 1:
        return table
    (name,) = table.columns
    if table.columns[name].dtype.kind != "O":
        return table
    few = take(table.columns, slice(2))
    for tried in (table, _as_texts(table, name)):
        try:
            with warnings.catch_warnings(action="ignore"):
                answer = model.predict(frame_of(tried).build(few))
        except Exception:  # it reads the other one, or neither
            continue
        if len(answer) == len(few[name]):
            return tried
    return table


def _reads_tables(model: Any, given: Table, count: int | None) -> bool:
    """Whether a model that knows no names of its columns reads them by name all the same.

    An estimator of the author's own may keep `n_features_in_` alone. It is asked about a few rows
    as a matrix, which is what scikit-learn's own were fitted on then, and as the table.
    """
    matrix = as_trained(None, count, given)
    if not matrix.is_matrix:
        return False
    answers = []
    for table in (given, matrix):
        try:
            with warnings.catch_warnings(action="ignore"):
                few = take(table.columns, slice(3))
                answers.append(np.asarray(model.predict(frame_of(table).build(few))))
        except Exception:  # any exception is a refusal
            return table is matrix
    of_table, of_matrix = answers
    if of_table.dtype.kind == "f" and of_table.shape == of_matrix.shape:
        return not np.allclose(of_table, of_matrix, rtol=1e-9, atol=0.0, equal_nan=True)
    return not np.array_equal(of_table, of_matrix)


def _as_texts(table: Table, name: str) -> Table:
    (found,) = table.columns
    return Table({name: table.columns[found]}, "texts", {name: Kind("object", missing="none")})


def _libraries(saved: bytes) -> list[str]:
    """The distributions of the boosted trees inside a pipeline."""
    types = skops_io().get_untrusted_types(data=saved)
    homes = {name.partition(".")[0] for name in types if name in BOOSTED}
    return [distribution_of(home) for home in homes]


def _has_steps(model: Any) -> bool:
    return hasattr(model, "steps") and len(model.steps) > 1


def _behind_steps(
    model: Any, signature: Signature, frame: Frame, few: Any
) -> Iterator[Compilation]:
    """The last step of a pipeline compiled, behind steps that are not: code of the author's own."""
    check_methods(model)
    last = model.steps[-1][1]
    made = np.asarray(before_last_step(model, few))
    if made.ndim != 2 or made.dtype.kind not in "fiu":
        raise Unconvertible(f"the steps before {type(last).__name__} give no matrix of numbers")
    dtype = DType.FP32 if made.dtype == np.float32 else DType.FP64
    features = Field("features", dtype, made.shape[1:])

    def handed_over(columns: Columns) -> Columns:
        with warnings.catch_warnings(action="ignore"):
            return {"features": np.asarray(before_last_step(model, frame.build(columns)))}

    for compiled in compilations(last, Signature((features,), signature.outputs)):
        yield replace(compiled, steps=handed_over)


def _hands_over_sparse(model: Any, rows: Any) -> bool:
    """Whether the steps before the last one of a pipeline give it a sparse matrix."""
    if not _has_steps(model):
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            return hasattr(before_last_step(model, rows), "tocsr")
    except Exception:  # a pipeline of another library, or a step of the caller's own
        return False


def _requires(frame: Frame, libraries: Sequence[str]) -> dict[str, str]:
    names = ["numpy", "scikit-learn", "skops", *libraries]
    if frame.container not in ("numpy", "texts", "dicts"):
        names.append(frame.container)
    return {name: version_of(name) for name in sorted(names)}
