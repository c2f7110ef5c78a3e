"""Reads the trees that CatBoost writes as JSON.

The layout is that of its "JSON model tutorial". CatBoost rounds its input to floats and compares
`x > border`. In a symmetric tree every level has one test, and the answers to them, the first
level's the lowest bit, are the number of the leaf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Scratch, Unconvertible
from bascule.packing.compilers.boosted import Ensemble, Link, predict_ensemble
from bascule.packing.compilers.catboost_categories import Test, tests_of
from bascule.packing.compilers.graph import Context
from bascule.packing.compilers.predictors import Outcome
from bascule.packing.compilers.steps import by_name
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import Value

_LINKS = by_name(
    {
        Link.SIGMOID: "Logloss CrossEntropy MultiLogloss MultiCrossEntropy",
        Link.SOFTMAX: "MultiClass",
        Link.SIGMOIDS: "MultiClassOneVsAll",
        Link.EXPONENTIAL: "Poisson Tweedie",
        Link.VARIANCE: "RMSEWithUncertainty",
        Link.IDENTITY: "Expectile Huber LogCosh Lq MAE MAPE MultiQuantile MultiRMSE PairLogit "
        "PairLogitPairwise QueryCrossEntropy QueryRMSE QuerySoftMax Quantile RMSE StochasticRank "
        "YetiRank YetiRankPairwise Cox SurvivalAft",
    }
)
SEVERAL = (
    "MultiCrossEntropy", "MultiLogloss", "MultiQuantile", "MultiRMSE", "RMSEWithUncertainty",
)  # fmt: skip
"""Losses of models that answer several numbers a row, which are no scores of classes."""
_TRUE_WHEN_MISSING = "AsTrue"


def estimator(context: Context, model: Any, value: Value) -> Outcome:
    """An estimator of CatBoost as the last step of a pipeline."""
    ensemble = read_catboost(as_json(model), str(model.get_all_params()["loss_function"]))
    classes = getattr(model, "classes_", None)
    many = None if classes is None or not len(classes) else len(classes)
    return predict_ensemble(context, ensemble, value, many, catboost_threshold(model))


def catboost_threshold(model: Any) -> float:
    """From which probability on a model of two classes answers the second."""
    return float(dict(model.get_metadata()).get("binclass_probability_threshold", 0.5))


def as_json(model: Any, pool: Any = None) -> dict[str, Any]:
    """A fitted model, parsed from the JSON that CatBoost writes of it.

    `pool`: rows with all categories, whose hashes are written too.
    """
    with Scratch() as folder:
        file = folder / "model.json"
        try:
            model.save_model(str(file), format="json", pool=pool)
        except Exception as problem:  # the library's own error, for what it cannot write so
            said = str(problem).splitlines()[0].rpartition(": ")[2]
            raise Unconvertible(f"CatBoost does not write the model as JSON: {said}") from None
        made: dict[str, Any] = json.loads(file.read_text())
    return made


def read_catboost(model: Mapping[str, Any], loss: str) -> Ensemble:
    """The trees of one model, parsed from its JSON form.

    Args:
        model: As CatBoost writes it.
        loss: The loss function it was trained with, which says what becomes of the sums.

    Raises:
        Unconvertible: It reads categories, texts or embeddings, or its loss has no compiler.
    """
    kind = loss.partition(":")[0]
    if kind not in _LINKS:
        raise Unconvertible(f"there is no compiler for CatBoost's loss {kind}")
    features = model["features_info"]
    for strange in ("categorical_features", "text_features", "embedding_features"):
        if features.get(strange) and "cat_features_hash" not in features:
            raise Unconvertible(
                f"CatBoost's {strange.replace('_', ' ')} are encoded by tables of its own, and "
                "there is no compiler for that"
            )
    tests = tests_of(features)
    right = [known["nan_value_treatment"] == _TRUE_WHEN_MISSING
             for known in features.get("float_features", ())]  # fmt: skip
    count = max([len(right), *(test.column + 1 for test in tests)])
    missing_left = ~np.append(np.array(right, bool), np.zeros(count - len(right), bool))
    scale, bias = model["scale_and_bias"]
    base = [float(part) for part in np.ravel(bias)]
    targets = len(base)
    if "oblivious_trees" in model:
        trees = model["oblivious_trees"]
        made = [_symmetric(tree, tests, missing_left, targets, scale) for tree in trees]
    else:
        made = [_plain(tree, tests, missing_left, targets, scale) for tree in model["trees"]]
    several = kind in SEVERAL
    return Ensemble(made, base, _LINKS[kind], columns=count, rounds=True, several=several)


def _symmetric(
    tree: Mapping[str, Any],
    tests: Sequence[Test],
    missing_left: NDArray[np.bool_],
    targets: int,
    scale: float,
) -> Tree:
    """A symmetric tree as a plain one: node i leads to 2i + 1 and 2i + 2, the last test first."""
    splits = [_split(split, tests) for split in (tree["splits"] or ())[::-1]]
    depth = len(splits)
    inner = 2**depth - 1
    level = np.floor(np.log2(np.arange(1, inner + 1))).astype(np.int64)
    feature = np.array([column for column, _ in splits], np.int64)
    border = np.array([value for _, value in splits], np.float64)
    leaves = np.asarray(tree["leaf_values"], np.float64).reshape(-1, targets) * scale
    node = np.arange(inner)
    none = np.full(2**depth, -1, np.int64)
    return Tree(
        np.concatenate([2 * node + 1, none]),
        np.concatenate([2 * node + 2, none]),
        np.concatenate([feature[level], none * 0]),
        np.concatenate([border[level], none * 0.0]),
        np.concatenate([missing_left[feature[level]], none > 0]),
        np.concatenate([np.zeros((inner, targets)), leaves]),
        tuple(range(targets)),
        cover=_cover(tree, depth),
    )


def _cover(tree: Mapping[str, Any], depth: int) -> NDArray[np.float64] | None:
    """The weight of the training rows at each node; None in a file that does not say it."""
    if not tree.get("leaf_weights"):
        return None
    levels = [np.asarray(tree["leaf_weights"], np.float64)]
    for _ in range(depth):
        levels.append(levels[-1].reshape(-1, 2).sum(axis=1))
    return np.concatenate(levels[::-1])


def _plain(
    root: Mapping[str, Any],
    tests: Sequence[Test],
    missing_left: NDArray[np.bool_],
    targets: int,
    scale: float,
) -> Tree:
    rows: list[tuple[int, int, int, float, bool]] = []
    values: list[NDArray[np.float64]] = []
    waiting: list[tuple[Mapping[str, Any], int, int]] = [(root, -1, 0)]
    left: dict[int, int] = {}
    right: dict[int, int] = {}
    weights: dict[int, float] = {}
    while waiting:
        node, parent, side = waiting.pop()
        place = len(rows)
        if parent >= 0:
            (left, right)[side][parent] = place
        if "value" in node:
            rows.append((-1, -1, 0, 0.0, False))
            values.append(np.ravel(node["value"]).astype(np.float64) * scale)
            weights[place] = float(node.get("weight", np.nan))
            continue
        column, border = _split(node["split"], tests)
        rows.append((0, 0, column, border, bool(missing_left[column])))
        values.append(np.zeros(targets))
        waiting += [(node["left"], place, 0), (node["right"], place, 1)]
    for place in sorted(left, reverse=True):
        weights[place] = weights[left[place]] + weights[right[place]]
    cover = np.array([weights[place] for place in range(len(rows))])
    return Tree(
        np.array([left.get(i, -1) for i in range(len(rows))], np.int64),
        np.array([right.get(i, -1) for i in range(len(rows))], np.int64),
        np.array([row[2] for row in rows], np.int64),
        np.array([row[3] for row in rows], np.float64),
        np.array([row[4] for row in rows], bool),
        np.array(values),
        tuple(range(targets)),
        cover=None if np.isnan(cover).any() else cover,
    )


def _split(split: Mapping[str, Any], tests: Sequence[Test]) -> tuple[int, float]:
    test = tests[int(split["split_index"])]
    return test.column, float(np.float32(test.border))
