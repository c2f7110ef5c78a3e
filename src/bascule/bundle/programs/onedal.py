"""Runs an ensemble of trees in oneDAL: three to four times ONNX Runtime's speed in batches.

oneDAL takes tens of microseconds before it begins, and leaves the processor's caches cold for what
comes after it. So a few rows are run in ONNX Runtime here too, by a graph of the same trees. Both
ways compare the same numbers, and their sums are exact (`compilers.apart.exactly_summed`): they
answer the same bits, and a row's answer does not depend on how many came with it.

What comes before the trees and what follows them stays with ONNX Runtime; see
`bundle.compilers.apart`, which writes the file that is read here: a NumPy archive with

    threshold feature true_at true_is_leaf false_at false_is_leaf missing   one value per test
    target weight                                                           one value per leaf
    roots                                                                   one value per tree
    columns                                                                 how many features
    before after whole                                                      graphs, as bytes

`whole` is all in one piece, for a few rows; archives of earlier versions lack it. oneDAL holds
thresholds and leaves as floats, and adds up in the type of the features: doubles, always. Where the
model compares doubles with thresholds that are no floats, there is `double_threshold` in place of
`threshold`, and the features are prepared by `bundle.programs.doubles`.

The extension is imported without its package: `daal4py/__init__` imports scikit-learn and pandas,
a second and a hundred megabytes that a serving worker has no use for.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import sys
import threading
import types
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.programs.doubles import CodedTests
from bascule.bundle.programs.onnx import (
    first_line,
    match,
    nullable_text,
    open_session,
    without_missing_text,
)
from bascule.core.errors import MissingExtra, ModelFailed, Untrusted
from bascule.core.fields import Columns, DType, Field

FEATURES = "features"
SUMS = "sums"
_ARRAYS = {
    "feature": "i", "true_at": "i", "true_is_leaf": "i", "false_at": "i", "false_is_leaf": "i",
    "missing": "i", "target": "i", "weight": "f", "roots": "i", "columns": "i",
}  # fmt: skip
_THRESHOLDS = {"threshold", "double_threshold"}
_OF_TESTS = (*_THRESHOLDS, *tuple(_ARRAYS)[:6])
_FEW = 9_000
"""Rows times trees below which ONNX Runtime is faster: 100 trees of depth 3 break even at 100 rows,
measured inside a server. Between half and twice of it the two differ by a fifth at most."""
_FEW_DOUBLES = 15_000
"""The same where features are prepared for thresholds in doubles: that takes a while of its own."""
_importing = threading.Lock()


def is_available() -> bool:
    """Whether oneDAL is installed."""
    return importlib.util.find_spec("daal4py") is not None


class OneDalProgram:
    """See `core.programs.Program`."""

    __slots__ = (
        "_after", "_all", "_before", "_coded", "_columns", "_daal", "_few_rows", "_missing_text",
        "_models", "_nullable_text", "_whole", "inputs", "name", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        inputs: tuple[Field, ...],
        outputs: tuple[Field, ...],
        before: Any,
        columns: int,
        coded: CodedTests | None,
        models: Sequence[Any],
        after: Any,
        whole: Any,
        few_rows: int,
        missing_text: str | None,
        daal: Any,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self._all = [field.name for field in outputs]
        self._before = None if before is None else before._sess.run
        self._after = after._sess.run
        self._whole = None if whole is None else whole._sess.run
        self._few_rows = few_rows
        self._columns = columns
        self._coded = coded
        self._models = models
        self._missing_text = missing_text
        self._nullable_text = nullable_text(inputs) if missing_text is not None else ()
        self._daal = daal

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for, in that order."""
        names = self._all if outputs is None else list(outputs)
        if self._nullable_text:
            columns = without_missing_text(columns, self._nullable_text, self._missing_text)
        try:
            if self._whole is not None and len(columns[self.inputs[0].name]) < self._few_rows:
                answers = self._whole(names, columns, None)
            else:
                answers = self._in_parts(columns, names)
        except Exception as problem:
            raise ModelFailed(f"program {self.name} failed: {first_line(problem)}") from problem
        return dict(zip(names, answers, strict=True))

    def both_ways(self) -> tuple[OneDalProgram, OneDalProgram]:
        """The program as it runs many rows, and as it runs a few: for whoever compares them."""
        many, few = copy.copy(self), copy.copy(self)
        many._few_rows, few._few_rows = 0, sys.maxsize
        return many, few

    def _in_parts(self, columns: Columns, names: list[str]) -> Any:
        if self._before is None:
            features = columns[self.inputs[0].name]
        else:
            (features,) = self._before([FEATURES], columns, None)
        if features.shape[1:] != (self._columns,):
            raise ValueError(f"{features.shape[1:]} features, not {self._columns}")
        # In doubles: the algorithm adds up in the type of the features.
        if self._coded is None:
            features = np.ascontiguousarray(features, np.float64)
        else:
            features = self._coded.coded(features)
        sums = self._sums(features)
        return self._after(names, {SUMS: sums}, None)

    def _sums(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        # An algorithm keeps its last answer and refuses another number of rows, so each call has
        # its own: it is a few microseconds, and calls may come from any thread.
        if len(self._models) == 1:
            algorithm = self._daal.gbt_regression_prediction(fptype="double")
            made: NDArray[np.float64] = algorithm.compute(features, self._models[0]).prediction
            return made
        sums = np.zeros((len(features), len(self._models)))
        for target, model in enumerate(self._models):
            if model is not None:
                algorithm = self._daal.gbt_regression_prediction(fptype="double")
                sums[:, target] = algorithm.compute(features, model).prediction[:, 0]
        return sums


def open_onedal(
    data: bytes,
    *,
    name: str,
    file: str,
    inputs: tuple[Field, ...],
    outputs: tuple[Field, ...],
    missing_text: str | None = None,
    threads: int = 1,
) -> OneDalProgram:
    """A program from the bytes of a verified file.

    Raises:
        MissingExtra: oneDAL is not installed.
        Untrusted: The file is not what `bundle.compilers.apart` writes.
    """
    daal = _extension()
    arrays = _read(data, file)
    before = None
    if "before" in arrays:
        before = open_session(arrays["before"].tobytes(), file, threads=threads)
        if {node.name for node in before.get_inputs()} - {field.name for field in inputs}:
            raise Untrusted(f"{file} reads columns that the manifest does not declare", file=file)
    elif len(inputs) != 1 or inputs[0].dtype not in (DType.FP32, DType.FP64):
        raise Untrusted(f"{file} has no part that makes the trees' features", file=file)
    after = open_session(arrays["after"].tobytes(), file, threads=threads)
    if [node.name for node in after.get_inputs()] != [SUMS] or {field.name for field in outputs} - {
        node.name for node in after.get_outputs()
    }:
        raise Untrusted(f"{file} does not answer what the manifest declares", file=file)
    whole = None
    if "whole" in arrays:
        whole = open_session(arrays["whole"].tobytes(), file, threads=threads)
        match(whole.get_inputs(), inputs, f"an input of {file}")
        match(whole.get_outputs(), outputs, f"an output of {file}")
    targets = after.get_inputs()[0].shape[-1]
    if not isinstance(targets, int) or len(arrays["columns"]) != 1:
        raise Untrusted(f"{file} has no fixed number of features", file=file)
    columns = int(arrays["columns"][0])
    _check(arrays, columns, targets, file)
    coded = _coded(arrays, file)
    daal.daalinit(threads)
    models = [_model(daal, trees, arrays) for trees in _by_target(arrays, targets, file)]
    return OneDalProgram(
        name=name,
        inputs=inputs,
        outputs=outputs,
        before=before,
        columns=columns,
        coded=coded,
        models=models,
        after=after,
        whole=whole,
        few_rows=(_FEW if coded is None else _FEW_DOUBLES) // len(arrays["roots"]),
        missing_text=missing_text,
        daal=daal,
    )


def _extension() -> Any:
    found = importlib.util.find_spec("daal4py")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            "this program runs in oneDAL, which is not installed",
            hint="pip install 'bascule[onedal]'",
        )
    with _importing:
        known = sys.modules.get("daal4py._daal4py")
        if known is not None:
            return known
        if "daal4py" in sys.modules:
            return importlib.import_module("daal4py._daal4py")
        package = types.ModuleType("daal4py")
        package.__path__ = list(found.submodule_search_locations)
        # The extension asks for pandas, and goes without where there is none.
        modules: dict[str, Any] = sys.modules
        absent = [name for name in ("pandas", "mpi4py") if name not in modules]
        modules.update({"daal4py": package, **dict.fromkeys(absent)})
        try:
            return importlib.import_module("daal4py._daal4py")
        finally:
            for name in ("daal4py", *absent):
                modules.pop(name, None)


def _read(data: bytes, file: str) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Untrusted(f"{file} is compressed, which no program is", file=file)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
        raise Untrusted(f"{file} cannot be read", file=file) from None
    thresholds = _THRESHOLDS & set(arrays)
    if len(thresholds) != 1:
        raise Untrusted(f"{file} has no thresholds, or two for each test", file=file)
    for name, kind in {**_ARRAYS, thresholds.pop(): "f", "after": "u"}.items():
        if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].ndim != 1:
            raise Untrusted(f"{file} has no {name} as it should be", file=file)
    return arrays


def _check(arrays: dict[str, NDArray[Any]], columns: int, targets: int, file: str) -> None:
    """Refuse numbers that would lead oneDAL, which does not look, outside of its memory."""
    tests, leaves = len(arrays["feature"]), len(arrays["weight"])
    good = (
        all(len(arrays[name]) == tests for name in _OF_TESTS if name in arrays)
        and columns > 0
        and len(arrays["target"]) == leaves > 0
        and len(arrays["roots"]) > 0
        and _within(arrays["feature"], columns)
        and _within(arrays["target"], targets)
        and _within(arrays["roots"], tests)
        and all(
            _within(at[is_leaf != 0], leaves) and _within(at[is_leaf == 0], tests)
            for at, is_leaf in (
                (arrays["true_at"], arrays["true_is_leaf"]),
                (arrays["false_at"], arrays["false_is_leaf"]),
            )
        )
    )
    if not good:
        raise Untrusted(f"{file} holds a tree that leads nowhere", file=file)
    # No test may be reached twice: not from two tests, and not from below itself.
    reached = np.bincount(
        np.concatenate(
            [
                arrays["roots"],
                arrays["true_at"][arrays["true_is_leaf"] == 0],
                arrays["false_at"][arrays["false_is_leaf"] == 0],
            ]
        ),
        minlength=tests,
    )
    if (reached != 1).any():
        raise Untrusted(f"{file} holds a tree that grows together", file=file)


def _coded(arrays: dict[str, NDArray[Any]], file: str) -> CodedTests | None:
    """How features are prepared for thresholds in doubles, in whose place come their codes."""
    if "double_threshold" not in arrays:
        return None
    try:
        coded = CodedTests(arrays["feature"], arrays["double_threshold"])
    except ValueError as problem:
        raise Untrusted(f"{file} cannot be tested in floats: {problem}", file=file) from None
    arrays["threshold"] = coded.codes
    return coded


def _within(values: NDArray[Any], end: int) -> bool:
    return not len(values) or (int(values.min()) >= 0 and int(values.max()) < end)


@dataclass(frozen=True, slots=True)
class _Node:
    """A test or a leaf, where it hangs, and whether its parent's test holds on the way to it."""

    number: int
    is_leaf: bool
    parent: int
    holds: bool


def _model(daal: Any, trees: Sequence[list[_Node]], arrays: dict[str, NDArray[Any]]) -> Any:
    """OneDAL's form of some trees; None if there are none."""
    if not trees:
        return None
    weight, feature, threshold, missing = (
        arrays[name].tolist() for name in ("weight", "feature", "threshold", "missing")
    )
    builder = daal.gbt_reg_model_builder(
        n_features=int(arrays["columns"][0]), n_iterations=len(trees)
    )
    for nodes in trees:
        tree = builder.create_tree(len(nodes))
        places: list[int] = []
        for node in nodes:
            where = {}
            if node.parent >= 0:
                where = {"parent_id": places[node.parent], "position": int(not node.holds)}
            if node.is_leaf:
                response = weight[node.number]
                builder.add_leaf(tree_id=tree, response=response, cover=0.0, **where)
                places.append(-1)
            else:
                places.append(
                    builder.add_split(
                        tree_id=tree,
                        feature_index=feature[node.number],
                        feature_value=threshold[node.number],
                        default_left=missing[node.number],
                        cover=0.0,
                        **where,
                    )
                )
    return builder.model(base_score=0.0)


def _by_target(arrays: dict[str, NDArray[Any]], targets: int, file: str) -> list[list[list[_Node]]]:
    """The trees of each target, each as its nodes from the root down."""
    true_at, true_is_leaf, false_at, false_is_leaf, target = (
        arrays[name].tolist()
        for name in ("true_at", "true_is_leaf", "false_at", "false_is_leaf", "target")
    )
    found: list[list[list[_Node]]] = [[] for _ in range(targets)]
    for root in arrays["roots"].tolist():
        nodes = [_Node(root, False, -1, False)]
        if true_is_leaf[root] and false_is_leaf[root] and true_at[root] == false_at[root]:
            nodes = [_Node(true_at[root], True, -1, False)]
        for place, node in enumerate(nodes):
            if not node.is_leaf:
                at = node.number
                nodes.append(_Node(true_at[at], bool(true_is_leaf[at]), place, True))
                nodes.append(_Node(false_at[at], bool(false_is_leaf[at]), place, False))
        added_to = {target[node.number] for node in nodes if node.is_leaf}
        if len(added_to) != 1:
            raise Untrusted(f"{file} holds a tree with several targets", file=file)
        found[added_to.pop()].append(nodes)
    return found
