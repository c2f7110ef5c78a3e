"""Checks the numbers inside an estimator that scikit-learn's compiled code follows without a look.

A child index outside of a tree, a feature that the rows do not have, a column index outside of a
sparse matrix: each reads or writes memory that is not the model's. scikit-learn says so itself
("Tree: nodes are not checked", its pull request 34558) and leaves it to the loading code.
Structures made by `fit` pass; crafted ones are refused before the first row.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Untrusted

_WITHOUT_PARTS = (str, bytes, int, float, bool, types.ModuleType)
_MOST_CATEGORIES = 256
"""Of a feature in scikit-learn's histogram trees: one bit each in eight words."""


def check_estimator(model: Any, file: str) -> None:
    """Raise `Untrusted` when something inside `model` would lead outside of it.

    Args:
        model: A loaded estimator, which has answered nothing yet.
        file: What to call the file that it came from.
    """
    for part in _parts(model):
        check = _CHECKS.get(type(part).__name__)
        if _is_sparse(part):
            check = _sparse
        # A vectorizer with a vocabulary of its own answers without being fitted.
        if check is None or not (check is _vectorizer or _is_fitted(part)):
            continue
        try:
            check(part, file)
        except Untrusted:
            raise
        except Exception as problem:  # a state that is not even there, or of another kind
            raise _refused(file, f"a {type(part).__name__} that is damaged: {problem}") from None


def check_nodes(
    left: NDArray[Any],
    right: NDArray[Any],
    feature: NDArray[Any],
    *,
    leaves: NDArray[Any],
    features: int,
    file: str,
) -> int:
    """The depth of a binary tree that is one: each node but the root is the child of one before it.

    Args:
        left: The left child of each node.
        right: The right child.
        feature: What each node that is no leaf looks at.
        leaves: Which nodes are leaves.
        features: How many features the rows have.
        file: For the message.

    Raises:
        Untrusted: It is no such tree, or looks at a feature that is not there.
    """
    count = len(left)
    inner = np.flatnonzero(~leaves)
    children = np.concatenate([left[inner], right[inner]]).astype(np.int64)
    if count == 0 or not np.array_equal(np.sort(children), np.arange(1, count)):
        raise _refused(file, f"a tree of {count} nodes whose children are not its own")
    if (children <= np.concatenate([inner, inner])).any():
        raise _refused(file, "a tree in which a child leads back")
    looked_at = feature[inner].astype(np.int64)
    if len(looked_at) and not (looked_at.min() >= 0 and looked_at.max() < features):
        raise _refused(file, f"a tree that looks at a feature outside of its {features}")
    depth, level = 0, np.zeros(1, np.int64)
    while len(level := level[~leaves[level]]):
        level = np.concatenate([left[level], right[level]]).astype(np.int64)
        depth += 1
    return depth


def _parts(model: Any) -> Iterator[Any]:
    """Everything inside, each once."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or part is None or isinstance(part, _WITHOUT_PARTS):
            continue
        seen.add(id(part))
        if isinstance(part, np.ndarray):
            if part.dtype == object:
                waiting.extend(part.ravel().tolist())
            continue
        yield part
        if isinstance(part, Mapping):
            waiting.extend(part.keys())
            waiting.extend(part.values())
        elif isinstance(part, list | tuple | set | frozenset):
            waiting.extend(part)
        else:
            waiting.extend(getattr(part, "__dict__", {}).values())
            if callable(part) and hasattr(part, "args"):
                waiting.extend([*part.args, *part.keywords.values(), part.func])


def _tree_estimator(estimator: Any, file: str) -> None:
    tree = getattr(estimator, "tree_", None)
    if tree is not None and tree.n_features != estimator.n_features_in_:
        raise _refused(file, f"a tree of {tree.n_features} features for other rows")


def _tree(tree: Any, file: str) -> None:
    nodes = tree.__getstate__()["nodes"]
    check_nodes(
        nodes["left_child"],
        nodes["right_child"],
        nodes["feature"],
        leaves=nodes["left_child"] == -1,
        features=tree.n_features,
        file=file,
    )


def _ensemble(ensemble: Any, file: str) -> None:
    """Members are asked without a look at the rows: those were compared with the first one."""
    members = getattr(ensemble, "estimators_", None)
    if members is None:
        return
    members = np.asarray(members, dtype=object)
    subsets = getattr(ensemble, "_estimators_features", None) or getattr(
        ensemble, "estimators_features_", None
    )
    width = int(ensemble.n_features_in_)
    for index, member in enumerate(members.ravel()):
        expected = width
        if subsets is not None and hasattr(ensemble, "estimators_features_"):
            chosen = np.asarray(subsets[index])
            if chosen.size > width or (
                chosen.size and not (chosen.min() >= 0 and chosen.max() < width)
            ):
                raise _refused(file, "an ensemble that chooses features outside of its rows")
            expected = chosen.size
        if int(getattr(member, "n_features_in_", expected)) != expected:
            raise _refused(file, "an ensemble whose members were trained on other rows")
        _tree_estimator(member, file)
    trees = getattr(ensemble, "n_trees_per_iteration_", None)
    if trees is not None and (members.ndim != 2 or members.shape[1] != trees):
        raise _refused(file, f"an ensemble of {members.shape} trees that says {trees} a stage")


def _histogram(model: Any, file: str) -> None:
    """`TreePredictor`s reach into the row, the bitsets, and the map of known categories."""
    width = int(model.n_features_in_)
    mapper = model._bin_mapper
    categorical = np.asarray(mapper.is_categorical_)
    if categorical.shape != (width,) or len(mapper.bin_thresholds_) != width:
        raise _refused(file, "histogram trees whose bins are of other rows")
    for feature in np.flatnonzero(categorical):
        values = np.asarray(mapper.bin_thresholds_[feature])
        if values.size and not (values.min() >= 0 and values.max() < _MOST_CATEGORIES):
            raise _refused(file, f"histogram trees with a category over {_MOST_CATEGORIES - 1}")
    for stage in model._predictors:
        if len(stage) != model.n_trees_per_iteration_:
            raise _refused(file, "histogram trees with more trees in a stage than outputs")
        for predictor in stage:
            _predictor(predictor, width, file)
    if np.asarray(model._baseline_prediction).shape[-1] != model.n_trees_per_iteration_:
        raise _refused(file, "histogram trees with another number of outputs than they say")


def _predictor(predictor: Any, width: int, file: str) -> None:
    nodes = predictor.nodes
    check_nodes(
        nodes["left"],
        nodes["right"],
        nodes["feature_idx"],
        leaves=nodes["is_leaf"] != 0,
        features=width,
        file=file,
    )
    sets = nodes["bitset_idx"][(nodes["is_categorical"] != 0) & (nodes["is_leaf"] == 0)]
    raw, binned = predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets
    if raw.shape[1:] != (8,) or binned.shape != raw.shape or (sets >= len(raw)).any():
        raise _refused(file, "histogram trees whose categories are not there")


def _neighbours(tree: Any, file: str) -> None:
    """A ball tree or a k-d tree: `__getstate__` of scikit-learn's `BinaryTree`."""
    data, order, nodes, bounds, _leaf, levels, count = tree.__getstate__()[:7]
    rows = len(data)
    if order.shape != (rows,) or not np.array_equal(np.sort(order), np.arange(rows)):
        raise _refused(file, "a tree of neighbours whose rows are not its own")
    if count != len(nodes) or count != 2**levels - 1 or bounds.shape[1:] != (count, data.shape[1]):
        raise _refused(file, "a tree of neighbours with other nodes than it says")
    starts, ends = nodes["idx_start"], nodes["idx_end"]
    if (starts < 0).any() or (ends < starts).any() or (ends > rows).any():
        raise _refused(file, "a tree of neighbours whose nodes reach outside of its rows")
    if not nodes["is_leaf"][count // 2 :].all():
        raise _refused(file, "a tree of neighbours whose last nodes are no leaves")


def _support_vectors(model: Any, file: str) -> None:
    """Libsvm and its callers take the lengths of some arrays from others."""
    vectors, counts = model.support_vectors_, np.asarray(model.n_support_)
    many = int(counts.sum()) if counts.size else 0
    classes = max(2, len(counts))
    pairs = classes * (classes - 1) // 2
    outputs = np.asarray(getattr(model, "classes_", ()))
    is_classifier = outputs.size > 0 and len(counts) == outputs.size
    coefficients = model._dual_coef_
    if (counts < 0).any() or vectors.shape[0] != many or model.support_.shape != (many,):
        raise _refused(file, "support vectors that are not as many as it says")
    if vectors.shape[1:] != (model.n_features_in_,) and not model._sparse:
        raise _refused(file, "support vectors of other rows")
    wanted = (classes - 1 if is_classifier else 1, many)
    if coefficients.shape != wanted or model._intercept_.shape != (pairs if is_classifier else 1,):
        raise _refused(file, "support vectors with other coefficients than they need")
    for name in ("_probA", "_probB"):
        found = np.asarray(getattr(model, name, ()))
        if found.size not in (0, pairs if is_classifier else 1):
            raise _refused(file, "support vectors with other probabilities than they need")


def _centers(model: Any, file: str) -> None:
    """Compiled code takes the width of the centers from the rows."""
    centers = [model.cluster_centers_]
    waiting = [getattr(model, "_bisecting_tree", None)]
    while waiting:
        node = waiting.pop()
        if node is not None:
            centers.append(np.asarray(node.center)[None])
            waiting += [node.left, node.right]
        if len(centers) > 2 * len(model.cluster_centers_):
            raise _refused(file, "a tree of clusters that has more nodes than it needs")
    for one in centers:
        if one.ndim != 2 or one.shape[1] != model.n_features_in_ or one.dtype.kind != "f":
            raise _refused(file, "clusters whose centers are of other rows")


def _one_hot(encoder: Any, file: str) -> None:
    """The columns of its sparse answer are computed from counts that it keeps apart."""
    dropped = getattr(encoder, "_drop_idx_after_grouping", None)
    for index, (values, width) in enumerate(
        zip(encoder.categories_, encoder._n_features_outs, strict=True)
    ):
        known = len(values)
        grouped = getattr(encoder, "_default_to_infrequent_mappings", None)
        if (
            getattr(encoder, "_infrequent_enabled", False)
            and grouped
            and grouped[index] is not None
        ):
            mapping = np.asarray(grouped[index])
            if mapping.shape != (known,) or (mapping < 0).any():
                raise _refused(file, "an encoder whose rare categories are not its own")
            known = int(mapping.max(initial=-1)) + 1
        if dropped is not None and dropped[index] is not None:
            known -= 1
        if int(width) != known:
            raise _refused(file, f"an encoder with {width} columns for {known} categories")


def _vectorizer(vectorizer: Any, file: str) -> None:
    """Its columns are the numbers of its vocabulary; and it can open the files that it is given."""
    if vectorizer.input != "content":
        raise _refused(
            file, f"a {type(vectorizer).__name__} that opens the files that requests name"
        )
    vocabulary = getattr(vectorizer, "vocabulary_", None)
    if vocabulary is None:
        return
    places = list(vocabulary.values())
    if not all(isinstance(place, int | np.integer) for place in places) or sorted(places) != list(
        range(len(places))
    ):
        raise _refused(file, "a vocabulary whose columns are not its own")


def _b_spline(spline: Any, file: str) -> None:
    """SciPy's spline. Since 1.18 it hands everything on to another object, which has the knots."""
    if not hasattr(spline, "_delegate_to"):
        _knots(spline, spline._t, spline._c, file)
    elif type(spline._delegate_to).__name__ != "_BSpline":
        raise _refused(file, "a spline that hands on to what is none")


def _inner_b_spline(spline: Any, file: str) -> None:
    if spline._delegate_to is not None:
        raise _refused(file, "a spline that hands on to what is none")
    _knots(spline, spline.t, spline.c, file)


def _knots(spline: Any, knots: Any, coefficients: Any, file: str) -> None:
    """Compiled code takes the knots to be rising and as many as the coefficients need."""
    degree = spline.k
    if not (
        isinstance(degree, int)
        and degree >= 0
        and spline.axis == 0
        and isinstance(knots, np.ndarray)
        and isinstance(coefficients, np.ndarray)
        and knots.dtype == coefficients.dtype == np.float64
        and knots.ndim == 1
        and coefficients.ndim >= 1
        and len(knots) >= 2 * degree + 2
        and len(coefficients) == len(knots) - degree - 1
        and np.isfinite(knots).all()
        and (np.diff(knots) >= 0).all()
    ):
        raise _refused(file, "a spline whose knots do not fit its coefficients")


def _sparse(matrix: Any, file: str) -> None:
    if hasattr(matrix, "check_format"):
        try:
            matrix.check_format(full_check=True)
        except ValueError as problem:
            raise _refused(file, f"a sparse matrix that is none: {problem}") from None
    elif matrix.format == "coo":
        for indices, length in zip(matrix.coords, matrix.shape, strict=True):
            if len(indices) and not (indices.min() >= 0 and indices.max() < length):
                raise _refused(file, "a sparse matrix with numbers outside of it")
    elif matrix.format != "dia":
        raise _refused(file, f"a sparse matrix in the form {matrix.format}")


def _is_fitted(part: Any) -> bool:
    """An estimator that only stands in a list of steps, to be copied by `fit`, says no itself."""
    if not hasattr(part, "get_params"):
        return True
    return any(name.endswith("_") and not name.startswith("__") for name in vars(part))


def _is_sparse(part: Any) -> bool:
    return type(part).__module__.startswith("scipy.sparse.") and hasattr(part, "format")


def _refused(file: str, what: str) -> Untrusted:
    return Untrusted(f"{file} holds {what}", file=file)


_ENSEMBLES = (
    "RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor "
    "RandomTreesEmbedding GradientBoostingClassifier GradientBoostingRegressor IsolationForest "
    "BaggingClassifier BaggingRegressor AdaBoostClassifier AdaBoostRegressor"
)
_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "Tree": _tree,
    **dict.fromkeys(
        (
            "DecisionTreeClassifier",
            "DecisionTreeRegressor",
            "ExtraTreeClassifier",
            "ExtraTreeRegressor",
        ),
        _tree_estimator,
    ),
    **dict.fromkeys(_ENSEMBLES.split(), _ensemble),
    **dict.fromkeys(
        ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"), _histogram
    ),
    **dict.fromkeys(("KDTree", "KDTree32", "BallTree", "BallTree32"), _neighbours),
    **dict.fromkeys(("SVC", "NuSVC", "SVR", "NuSVR", "OneClassSVM"), _support_vectors),
    **dict.fromkeys(("KMeans", "MiniBatchKMeans", "BisectingKMeans"), _centers),
    "OneHotEncoder": _one_hot,
    "BSpline": _b_spline,
    "_BSpline": _inner_b_spline,
    **dict.fromkeys(("CountVectorizer", "TfidfVectorizer", "HashingVectorizer"), _vectorizer),
}
"""By the names of the classes, whose homes were checked before: nothing has to be imported."""
