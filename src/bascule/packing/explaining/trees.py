"""Packs the trees of a model as `bundle.explaining.trees` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining import FAILS, MAX_POINTS, PARENT, PASSES_MISSING, PLACE
from bascule.packing.compilers import sum_of_trees
from bascule.packing.explaining.answers import Explainable, explainable
from bascule.packing.explaining.making import Made, NotExplained, Sources

_MOST_NODES = 1_000_000
"""48 MB; a forest of more has to be explained by another method."""
_SEED = 28


def make(sources: Sources) -> Made:
    """See `making.Maker`."""
    model = explainable(sources, sum_of_trees)
    tests = _Tests(model)
    if sources.background:
        rows = min(sources.background, len(model.matrix))
        chosen = np.random.default_rng(_SEED).permutation(len(model.matrix))[:rows]
        trees = tests.of_rows(model.matrix[np.sort(chosen)])
        about = f"exact interventional Shapley values over {rows:,} training rows"
    else:
        if model.shares is None:
            raise NotExplained("the trees do not say how many training rows went where")
        rows = 0
        trees = tests.of_shares(model.shares)
        about = "exact path-dependent Shapley values"
    laid = _Laid(model)
    for tree in trees:
        laid.add(tree)
    arrays = laid.arrays()
    return model.packed(
        "trees",
        about,
        arrays,
        tolerance=sources.tolerance,
        background_rows=rows,
        points=laid.points,
    )


class _Tree(NamedTuple):
    """One tree: its root, by test the share that passes, and what its leaves are multiplied by."""

    root: int
    shares: Any
    weight: float


class _Tests:
    """The tests of all trees."""

    def __init__(self, model: Explainable) -> None:
        self._arrays = model.sum.arrays
        self._roots: list[int] = self._arrays["roots"].tolist()

    def of_shares(self, shares: NDArray[np.float64]) -> Iterator[_Tree]:
        """The trees with the shares of the training rows."""
        every = shares.tolist()
        for root in self._roots:
            yield _Tree(root, every, 1.0)

    def of_rows(self, rows: NDArray[np.float64]) -> Iterator[_Tree]:
        """Each tree once for every way in which a row of the background answers its tests."""
        arrays = self._arrays
        values = rows[:, arrays["feature"]]
        passes = values <= arrays["threshold"]
        passes |= np.isnan(values) & (arrays["missing"] != 0)
        ends = [*self._roots[1:], len(arrays["feature"])]
        for root, end in zip(self._roots, ends, strict=True):
            ways, counts = np.unique(passes[:, root:end], axis=0, return_counts=True)
            for way, count in zip(ways, counts, strict=True):
                shares = dict(enumerate(way.astype(float).tolist(), root))
                yield _Tree(root, shares, float(count / len(rows)))


class _Laid:
    """Nodes in preorder, one tree behind the other; see `shapley.ll`."""

    def __init__(self, model: Explainable) -> None:
        arrays = model.sum.arrays
        names = ("feature", "threshold", "missing", "true_at", "true_is_leaf", "false_at")
        self._tests = [arrays[name].tolist() for name in (*names, "false_is_leaf")]
        self._target, self._weight = arrays["target"].tolist(), arrays["weight"].tolist()
        self._players = model.players.tolist()
        self._columns = len(model.columns)
        self._factor, self._base = model.factor.tolist(), model.start.copy()
        self._firsts = [0]
        self._links: list[tuple[int, ...]] = []
        self._numbers: list[tuple[float, float]] = []
        self._shares: list[float] = []
        self._most_players = 1

    @property
    def points(self) -> int:
        """How many points make the quadrature exact."""
        return (self._most_players + 1) // 2

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `TreeExplainer`."""
        if self.points > MAX_POINTS:
            raise NotExplained(f"a way in a tree tests {self._most_players} columns")
        return {
            "firsts": np.array(self._firsts, np.int64),
            "links": np.array(self._links, np.int32).reshape(-1, 6),
            "numbers": np.array(self._numbers, np.float64).reshape(-1, 2),
            "shares": np.array(self._shares, np.float64),
            "base": self._base,
        }

    def add(self, tree: _Tree) -> None:
        """Add one tree; raises `NotExplained` where there are too many nodes."""
        feature, threshold, missing, true_at, true_is_leaf, false_at, false_is_leaf = self._tests
        first = len(self._links)
        target = self._target_of(tree.root)
        reached, players = [1.0], [0]
        self._links.append((0, 0, 0, 0, 0, 0))
        self._numbers.append((0.0, 0.0))
        self._shares.append(1.0)
        ways: list[tuple[int, int, bool]] = [(0, tree.root, False), (0, tree.root, True)]
        while ways:
            parent, test, passed = ways.pop()
            at, is_leaf = (true_at, true_is_leaf) if passed else (false_at, false_is_leaf)
            node, player = len(self._links) - first, self._players[feature[test]]
            if player < 0:
                raise NotExplained("a test is of a feature that no column was seen to change")
            if not passed:  # the second of the two: its parent's left child is right behind it
                link = self._links[first + parent]
                self._links[first + parent] = (link[0], node, *link[2:])
            place = target * self._columns + player
            above = self._above(first, parent, place)
            share = tree.shares[test] if passed else 1 - tree.shares[test]
            flags = (0 if passed else FAILS) | (PASSES_MISSING if missing[test] else 0)
            reached.append(reached[parent] * share)
            players.append(players[parent] + (above == 0))
            value = 0.0
            if is_leaf[test]:
                value = self._weight[at[test]] * self._factor[target] * tree.weight
                self._base[target] += value * reached[node]
                self._most_players = max(self._most_players, players[node])
            else:
                ways += [(node, at[test], False), (node, at[test], True)]
            self._links.append((parent, 0, above, feature[test], flags, place))
            self._numbers.append((threshold[test], value))
            self._shares.append(share * (self._shares[first + above] if above else 1.0))
        self._firsts.append(len(self._links))
        if len(self._links) > _MOST_NODES:
            raise NotExplained(
                f"the trees, once for each way of a background row, have over {_MOST_NODES:,} nodes"
            )

    def _above(self, first: int, node: int, place: int) -> int:
        """The nearest node of the same player, from `node` on up; 0 where there is none."""
        while node and self._links[first + node][PLACE] != place:
            node = self._links[first + node][PARENT]
        return node

    def _target_of(self, test: int) -> int:
        _, _, _, true_at, true_is_leaf, _, _ = self._tests
        while not true_is_leaf[test]:
            test = true_at[test]
        return int(self._target[true_at[test]])
