"""Packs the trees of a model as `bundle.explaining.trees` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining import FAILS, MAX_POINTS, PARENT, PASSES_MISSING, PLACE
from bascule.core import Unconvertible
from bascule.packing.compilers import sum_of_trees
from bascule.packing.explaining.answers import Explainable, explainable
from bascule.packing.explaining.making import Made, Sources

_MOST_NUMBERS = 8_000_000
"""Nodes times points: a server keeps 40 bytes for each."""
_SEED = 28

Shares = Sequence[float] | Mapping[int, float]
"""By test: the share of rows that pass it."""


def make(sources: Sources) -> Made:
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
        raise Unconvertible("the trees do not say how many training rows went where")
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
    """Nodes in preorder, one tree behind the other; see `TreeExplainer`."""

    def __init__(self, model: Explainable) -> None:
        arrays = {name: values.tolist() for name, values in model.sum.arrays.items()}
        self._tests, self._factor, self._base = arrays, model.factor.tolist(), model.start.copy()
        self._players, self._columns = model.players.tolist(), len(model.explanation.columns)
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
            raise Unconvertible(f"a way in a tree tests {self._most_players} columns")
        return {
            "firsts": np.array(self._firsts, np.int64),
            "links": np.array(self._links, np.int32).reshape(-1, 6),
            "numbers": np.array(self._numbers, np.float64).reshape(-1, 2),
            "shares": np.array(self._shares, np.float64),
            "base": self._base,
        }

    def add(self, root: int, shares: Shares, weight: float = 1.0) -> None:
        """Add one tree, its leaves multiplied by `weight`; raises `Unconvertible` for too many."""
        tests, first = self._tests, len(self._links)
        target = self._target_of(root)
        reached, players = [1.0], [0]
        self._links.append((0, 0, 0, 0, 0, 0))
        self._numbers.append((0.0, 1.0))
        self._shares.append(1.0)
        ways: list[tuple[int, int, bool]] = [(0, root, False), (0, root, True)]
        while ways:
            parent, test, passed = ways.pop()
            at, is_leaf = ("true_at", "true_is_leaf") if passed else ("false_at", "false_is_leaf")
            node, feature, below = len(self._links) - first, tests["feature"][test], tests[at][test]
            player = self._players[feature]
            if player < 0:
                raise Unconvertible("a test is of a feature that no column was seen to change")
            if not passed:  # the second of the two: its parent's left child is right behind it
                link = self._links[first + parent]
                self._links[first + parent] = (link[0], node, *link[2:])
            place = target * self._columns + player
            above = self._above(first, parent, place)
            share = shares[test] if passed else 1 - shares[test]
            missing = PASSES_MISSING if tests["missing"][test] else 0
            reached.append(reached[parent] * share)
            players.append(players[parent] + (above == 0))
            value = 1.0
            if tests[is_leaf][test]:
                value = tests["weight"][below] * self._factor[target] * weight
                self._base[target] += value * reached[node]
                self._most_players = max(self._most_players, players[node])
            else:
                ways += [(node, below, False), (node, below, True)]
            flags = missing | (0 if passed else FAILS)
            self._links.append((parent, 0, above, feature, flags, place))
            self._numbers.append((tests["threshold"][test], value))
            self._shares.append(share * (self._shares[first + above] if above else 1.0))
        self._firsts.append(len(self._links))
        if len(self._links) * self.points > _MOST_NUMBERS:
            raise Unconvertible("the trees, once for each way of a background row, are too many")

    def _above(self, first: int, node: int, place: int) -> int:
        """The nearest node of the same player, from `node` on up; 0 where there is none."""
        while node and self._links[first + node][PLACE] != place:
            node = self._links[first + node][PARENT]
        return node

    def _target_of(self, test: int) -> int:
        while not self._tests["true_is_leaf"][test]:
            test = self._tests["true_at"][test]
        return int(self._tests["target"][self._tests["true_at"][test]])
