"""scikit-learn's estimators of a bundle: read from skops' form, and asked as programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest
from bascule.bundle.originals.archives import BOOSTED, check_archive, is_own_class
from bascule.bundle.originals.frames import Frame
from bascule.bundle.originals.libraries import check_versions
from bascule.bundle.originals.overrides import own_methods
from bascule.bundle.originals.structures import check_estimator
from bascule.bundle.tables import as_dtype
from bascule.core import Columns, Field, MissingExtra, ModelFailed, Program, Signature, Untrusted

_LEFT_OUT = tuple(
    f"sklearn.externals.array_api_compat.{library}" for library in ("torch", "cupy", "dask")
)
"""skops imports every package of scikit-learn to learn the names in it, and each of these imports a
whole framework, where it is installed, for arrays that no original of scikit-learn is given."""
_INSTALL = "pip install 'bascule[sklearn]'"
_METHODS = {
    "label": "predict",
    "prediction": "predict",
    "probabilities": "predict_proba",
    "score": "decision_function",
}
"""What the original is asked for each kind of output."""
_SCORES = tuple(f"sklearn.metrics._{home}." for home in ("classification", "ranking", "regression"))
"""Modules of functions that compare two arrays. A search over thresholds keeps one."""
_LABELS_OF_SHARES = (
    "lightgbm.sklearn.LGBMClassifier",
    "sklearn.ensemble.BaggingClassifier",
    "sklearn.ensemble.ExtraTreesClassifier",
    "sklearn.ensemble.RandomForestClassifier",
)
"""Classifiers whose `predict` is the first class with the largest share of `predict_proba`."""
_EXACT = ("scikit-learn", "catboost", "lightgbm", "xgboost", "xgboost-cpu")
"""What a saved model was made by must be what opens it: their own parts are kept as they are."""
_TRUSTED_BY_NAME = {
    *BOOSTED,
    "collections.OrderedDict",
    "collections.defaultdict",
    "builtins.object",  # of which columns are chosen by their type
    "numpy.dtype",
    *(
        f"numpy.{name}" for name in ("max", "mean", "median", "min", "sum")
    ),  # how clusters are pooled
    "sklearn.cluster._kmeans._kmeans_single_elkan",
    "sklearn.cluster._kmeans._kmeans_single_lloyd",
    "functools.partial",  # what it calls is asked for by its own name
    "sklearn.utils.validation.check_array",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",  # numpy's own, kept by splines
    *(
        f"sklearn.feature_selection._{home}.{name}"
        for home, names in {
            "univariate_selection": ("chi2", "f_classif", "f_regression", "r_regression"),
            "mutual_info": ("mutual_info_classif", "mutual_info_regression"),
        }.items()
        for name in names
    ),
}


class SklearnOriginal(Program):
    """The model itself as a program."""

    name = "original"

    def __init__(self, model: Any, frame: Frame, signature: Signature) -> None:
        self.inputs = signature.inputs
        self.outputs = signature.outputs
        self._model = model
        self._frame = frame
        self._plain = _plain_parts(model)

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        try:
            made = self.ask(self._frame.build(columns), outputs)
        except Exception as problem:
            raise ModelFailed(f"the original failed: {problem}") from problem
        return made if outputs is None else {name: made[name] for name in outputs}

    def ask(self, data: Any, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs for rows in any container that the model takes; raises what it raises."""
        wanted = [f for f in self.outputs if outputs is None or f.name in outputs]
        methods = {_METHODS[field.name.partition(".")[0]] for field in wanted}
        asked = _asked(self._model, data, methods, self._plain)
        return {field.name: self._answer(field, asked) for field in wanted}

    def decide(self, columns: Columns) -> NDArray[Any] | None:
        """The model's `decision_function`; None where it refuses the rows."""
        try:
            return np.asarray(self._model.decision_function(self._frame.build(columns)))
        except Exception:  # a model may raise anything
            return None

    def _answer(self, field: Field, asked: Mapping[str, Any]) -> NDArray[Any]:
        """One output, from the answers of the model's methods."""
        kind, _, target = field.name.partition(".")
        answer = asked[_METHODS[kind]]
        if not target:
            made = np.asarray(answer)
            return as_dtype(made if field.shape else made.ravel(), field.dtype)
        alike = [one.name for one in self.outputs if one.name.startswith(f"{kind}.")]
        place = alike.index(field.name)
        if isinstance(answer, list):
            return as_dtype(np.asarray(answer[place]), field.dtype)
        column = np.asarray(answer)[:, place]
        if field.shape:  # a chain of classifiers answers the chance of the second of two classes
            column = np.column_stack([1 - column, column])
        return as_dtype(np.ascontiguousarray(column), field.dtype)


def _asked(
    model: Any, data: Any, methods: Set[str], plain: Set[int] | None = None
) -> dict[str, Any]:
    """The answers of several methods of a model, by their names.

    `Pipeline` runs all steps for each method; here those before the last one run once. Some
    classifiers take their label from the probabilities, and are not asked for it again. Both only
    for a model that is `plain`, by its `id`: see `_plain_parts`,
    which is asked where they are not given.
    """
    plain = _plain_parts(model) if plain is None else plain
    if len(methods) > 1:
        while id(model) in plain and kind_name(model) == "sklearn.pipeline.Pipeline":
            data, model = before_last_step(model, data), model.steps[-1][1]
    derives = (
        {"predict", "predict_proba"} <= methods
        and id(model) in plain
        and kind_name(model) in _LABELS_OF_SHARES
    )
    asked = {
        method: getattr(model, method)(data)
        for method in methods
        if method != "predict" or not derives
    }
    if derives and isinstance(asked["predict_proba"], np.ndarray):
        asked["predict"] = model.classes_[asked["predict_proba"].argmax(axis=1)]
    elif derives:
        asked["predict"] = model.predict(data)
    return asked


def _plain_parts(model: Any) -> frozenset[int]:
    """Which of a model and its last steps answer by no method of their author's."""
    parts = [model]
    while getattr(parts[-1], "steps", None):
        parts.append(parts[-1].steps[-1][1])
    return frozenset(id(part) for part in parts if not own_methods(part, ("sklearn", "lightgbm")))


def before_last_step(model: Any, data: Any) -> Any:
    """What a pipeline hands to its last step.

    As `predict` of the pipeline does it: a pipeline of the other steps may call itself not fitted,
    for it looks at its last step alone, and a transformer may learn nothing that ends in _.
    """
    for _, step in model.steps[:-1]:
        # Steps that resample (imbalanced-learn) act in training alone.
        if step is not None and step != "passthrough" and not hasattr(step, "fit_resample"):
            data = step.transform(data)
    return data


def kind_name(model: Any) -> str:
    kind = type(model)
    return f"{kind.__module__.split('._')[0]}.{kind.__qualname__}"


def open_skops(
    data: bytes, manifest: Manifest, *, threads: int = 1, boosted: bool = True
) -> SklearnOriginal:
    """The saved original, under the versions that it was saved with.

    Args:
        data: Its verified bytes.
        manifest: The bundle's.
        threads: Of no effect: estimators have a setting of their own.
        boosted: Whether it may hold boosted trees that another library reads.

    Raises:
        Untrusted: It was saved with another scikit-learn, or holds a type that is not trusted.
        MissingExtra: scikit-learn is not installed.
    """
    del threads
    frame = Frame.from_json(manifest.original.frame).fitting(manifest.signature)
    return SklearnOriginal(reopen(data, manifest, boosted=boosted), frame, manifest.signature)


def reopen(data: bytes, manifest: Manifest, *, boosted: bool = True) -> Any:
    """The estimator itself; raises as `open_skops` does."""
    skops_io()
    check_versions(manifest, [name for name in manifest.original.requires if name in _EXACT])
    return load_trusted(data, manifest.original.file, boosted=boosted)


def load_trusted(data: bytes, file: str, *, boosted: bool = True) -> Any:
    """An estimator from the bytes of a skops file, if every type in it is trusted.

    Raises:
        Untrusted: A type in it is not, or the bytes are no skops file.
        MissingExtra: scikit-learn is not installed.
    """
    skops = skops_io()
    check_archive(data, file, boosted=boosted)
    try:
        types = skops.get_untrusted_types(data=data)
        strange = [name for name in types if not is_trusted(name)]
        if strange:
            raise Untrusted(
                f"{file} holds {strange[0]}, which is not trusted",
                hint="build the model from scikit-learn's own estimators",
                type=strange[0],
            )
        model = skops.loads(data, trusted=types)
    except Untrusted:
        raise
    except Exception as problem:
        raise Untrusted(f"{file} cannot be read: {problem}", file=file) from problem
    check_estimator(model, file)
    return model


def skops_io() -> Any:
    try:
        import sklearn  # noqa: F401

        with _left_out(_LEFT_OUT):
            import skops.io
    except ImportError:
        raise MissingExtra("scikit-learn and skops are not installed", hint=_INSTALL) from None
    return skops.io


@contextmanager
def _left_out(names: Sequence[str]) -> Iterator[None]:
    """Modules that are not loaded yet cannot be loaded for as long as this lasts."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(absent))  # None says that there is no such module
    try:
        yield
    finally:
        for name in absent:
            del modules[name]


def is_trusted(name: str) -> bool:
    """Whether it is a class of scikit-learn or scipy; a function could do anything."""
    if name in _TRUSTED_BY_NAME:
        return True
    if name.startswith(_SCORES):
        return True
    if not is_own_class(name):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(import_module(module), attribute), type)
    except (ImportError, AttributeError):
        return False
