"""Adds up trees in oneDAL: three to four times ONNX Runtime's speed in batches.

oneDAL takes tens of microseconds before it begins, and leaves the processor's caches cold for what
comes after it. It holds thresholds and leaves as floats, and adds up in the type of the features:
doubles, always. For thresholds that are no floats the features are prepared by
`bundle.programs.doubles`.

The extension is imported without its package: `daal4py/__init__` imports scikit-learn and pandas,
a second and a hundred megabytes that a serving worker has no use for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.programs.doubles import CodedTests
from bascule.bundle.programs.trees import Arrays, Node, Trees, TreesProgram, open_trees
from bascule.core.errors import MissingExtra, Untrusted

_FEW = 9_000
"""100 trees of depth 3 break even at 100 rows, measured inside a server. Between half and twice of
it the two ways differ by a fifth at most."""
_FEW_DOUBLES = 15_000
"""The same where features are prepared for thresholds in doubles: that takes a while of its own."""
_importing = threading.Lock()


_INSTALL = "pip install 'bascule[onedal]'"


def obstacle() -> str:
    """What to do so that it runs here; nothing where oneDAL is installed."""
    return _INSTALL if importlib.util.find_spec("daal4py") is None else ""


def open_onedal(data: bytes, **settings: Any) -> TreesProgram:
    """A program from the bytes of a verified file; see `programs.trees.open_trees`.

    Raises:
        MissingExtra: oneDAL is not installed.
        Untrusted: The file is not what `bundle.compilers.apart` writes, or has thresholds that no
            floats stand for.
    """
    daal = _extension()
    return open_trees(data, lambda trees, threads: _OneDal(daal, trees, threads), **settings)


class _OneDal:
    """See `programs.trees.Engine`."""

    def __init__(self, daal: Any, trees: Trees, threads: int) -> None:
        self._daal = daal
        self._coded = _coded(trees.arrays, trees.file)
        threshold = trees.arrays["threshold"] if self._coded is None else self._coded.codes
        self.few_row_trees = _FEW if self._coded is None else _FEW_DOUBLES
        daal.daalinit(threads)
        self._models = [
            _model(daal, own, trees.arrays, threshold, trees.columns) for own in trees.by_target
        ]

    def sums(self, features: NDArray[Any]) -> NDArray[np.float64]:
        # In doubles: the algorithm adds up in the type of the features.
        if self._coded is None:
            features = np.ascontiguousarray(features, np.float64)
        else:
            features = self._coded.coded(features)
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


def _extension() -> Any:
    found = importlib.util.find_spec("daal4py")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            "this program runs in oneDAL, which is not installed",
            hint=_INSTALL,
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


def _coded(arrays: Arrays, file: str) -> CodedTests | None:
    """How features are prepared for thresholds in doubles, in whose place come their codes."""
    if "double_threshold" not in arrays:
        return None
    try:
        return CodedTests(arrays["feature"], arrays["double_threshold"])
    except ValueError as problem:
        raise Untrusted(f"{file} cannot be tested in floats: {problem}", file=file) from None


def _model(
    daal: Any,
    trees: Sequence[list[Node]],
    arrays: Arrays,
    thresholds: NDArray[np.float32],
    columns: int,
) -> Any:
    """OneDAL's form of some trees; None if there are none."""
    if not trees:
        return None
    weight, feature, missing = (arrays[name].tolist() for name in ("weight", "feature", "missing"))
    threshold = thresholds.tolist()
    builder = daal.gbt_reg_model_builder(n_features=columns, n_iterations=len(trees))
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
