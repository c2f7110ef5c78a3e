"""Packs the trees of a model as `bundle.explaining.trees` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining import FAILS, MAX_POINTS, NODE, PASSES_MISSING
from bascule.packing.compilers import sum_of_trees
from bascule.packing.explaining.answers import Explainable, explainable
from bascule.packing.explaining.making import Method, NotExplained, Sources

_MOST_NUMBERS = 8_000_000
"""Nodes times points: a server keeps 40 bytes for each."""
_SEED = 28
_PARENT, _RIGHT, _PLACE, _SHARE = (
    list(NODE.fields or ()).index(name) for name in ("parent", "right", "place", "share")
)

Shares = Sequence[float] | Mapping[int, float]
"""By test: the share of rows that pass it."""


def make(sources: Sources) -> Method:
    """See `making.Maker`."""
    model = explainable(sources, sum_of_trees)
    rows = min(sources.background, len(model.matrix))
    forest = _Forest(model)
    if rows:
        chosen = np.random.default_rng(_SEED).permutation(len(model.matrix))[:rows]
        about = f"exact interventional Shapley values over {rows:,} training rows"
        for root, shares, weight in _ways(model, model.matrix[np.sort(chosen)]):
            forest.add(root, shares, weight)
    elif model.shares is None:
        raise NotExplained("the trees do not say how many training rows went where")
    else:
        about, shares = "exact path-dependent Shapley values", model.shares.tolist()
        for root in model.sum.arrays["roots"].tolist():
            forest.add(root, shares)
    return model.packed("trees", about, forest.arrays(), rows, points=forest.points)


def _ways(
    model: Explainable, rows: NDArray[np.float64]
) -> Iterator[tuple[int, dict[int, float], float]]:
    """Each tree once for every way in which rows answer its tests, and the share of such rows."""
    arrays = model.sum.arrays
    values = rows[:, arrays["feature"]]
    passes = values <= arrays["threshold"]
    passes |= np.isnan(values) & (arrays["missing"] != 0)
    roots = arrays["roots"].tolist()
    for root, end in zip(roots, [*roots[1:], passes.shape[1]], strict=True):
        ways, counts = np.unique(passes[:, root:end], axis=0, return_counts=True)
        for way, count in zip(ways.astype(float).tolist(), counts.tolist(), strict=True):
            yield root, dict(enumerate(way, root)), count / len(rows)


class _Forest:
    """Nodes in preorder, one tree behind the other; see `NODE`."""

    def __init__(self, model: Explainable) -> None:
        self._tests = {name: values.tolist() for name, values in model.sum.arrays.items()}
        self._factor, self._base = model.factor.tolist(), model.start.copy()
        self._players, self._columns = model.players.tolist(), len(model.explanation.columns)
        self._firsts = [0]
        self._nodes: list[list[Any]] = []
        self._most_players = 1

    @property
    def points(self) -> int:
        """How many points make the quadrature exact."""
        return (self._most_players + 1) // 2

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `TreeExplainer`."""
        if self.points > MAX_POINTS:
            raise NotExplained(f"a way in a tree tests {self._most_players} columns")
        nodes = np.array(list(map(tuple, self._nodes)), NODE)
        return {"firsts": np.array(self._firsts, np.int64), "nodes": nodes, "base": self._base}

    def add(self, root: int, shares: Shares, weight: float = 1.0) -> None:
        """Add one tree, its leaves multiplied by `weight`; raises `Unconvertible` for too many."""
        tests, target = self._tests, self._target_of(root)
        nodes: list[list[Any]] = [[0, 0, 0, 0, 0, 0, 0.0, 1.0, 1.0]]
        reached, players = [1.0], [0]
        ways: list[tuple[int, int, bool]] = [(0, root, False), (0, root, True)]
        while ways:
            parent, test, passed = ways.pop()
            at, is_leaf = ("true_at", "true_is_leaf") if passed else ("false_at", "false_is_leaf")
            node, feature, below = len(nodes), tests["feature"][test], tests[at][test]
            player = self._players[feature]
            if player < 0:
                raise NotExplained("a test is of a feature that no column was seen to change")
            if not passed:  # the second of the two: its parent's left child is right behind it
                nodes[parent][_RIGHT] = node
            place = target * self._columns + player
            above = parent
            while above and nodes[above][_PLACE] != place:
                above = nodes[above][_PARENT]
            share = shares[test] if passed else 1 - shares[test]
            reached.append(reached[parent] * share)
            players.append(players[parent] + (above == 0))
            value = 1.0
            if tests[is_leaf][test]:
                value = tests["weight"][below] * self._factor[target] * weight
                self._base[target] += value * reached[node]
                self._most_players = max(self._most_players, players[node])
            else:
                ways += [(node, below, False), (node, below, True)]
            flags = (0 if passed else FAILS) | (PASSES_MISSING if tests["missing"][test] else 0)
            share *= nodes[above][_SHARE]  # of the root 1
            threshold = tests["threshold"][test]
            nodes.append([parent, 0, above, feature, flags, place, threshold, value, share])
        self._nodes += nodes
        self._firsts.append(len(self._nodes))
        if len(self._nodes) * self.points > _MOST_NUMBERS:
            raise NotExplained("the trees, once for each way of a background row, are too many")

    def _target_of(self, test: int) -> int:
        while not self._tests["true_is_leaf"][test]:
            test = self._tests["true_at"][test]
        return int(self._tests["target"][self._tests["true_at"][test]])
