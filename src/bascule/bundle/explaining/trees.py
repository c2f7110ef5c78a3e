"""Exact Shapley values of sums of trees, from the trees alone.

The players are the user's columns. A row of which only some columns are known goes down a tree by
those, and where an unknown one is tested it goes both ways, each with a share of it: that of the
training rows ("path-dependent": Lundberg et al., "From local explanations to global understanding
with explainable AI for trees", Nature Machine Intelligence 2, 2020), or 0 and 1 for one row of a
background, and the mean over these rows ("interventional"). So a leaf of value v answers
v prod(o_i) prod(z_i), of the known and the unknown players on the way to it: o is 1 where the row
goes that way, z is the share. The Shapley value of a player is then

    v (o_j - z_j) integral over t in [0, 1] of prod_{i != j} (t o_i + (1 - t) z_i)

for |S|! (n - |S| - 1)! / n! is the integral of t^|S| (1 - t)^(n - |S| - 1). The product has a
degree below the number of players on the way, so that Gauss and Legendre's rule is exact with half
as many points. All terms are positive: unlike the interpolation of Linear TreeSHAP (Yu et al.,
2022), which has the same cost (one factor per node and point), it loses no digits in deep trees.

Where a column becomes several features (one-hot, sets of categories), all of them are one player:
the value is that of the column itself. It is not the sum of the values which the features would
have as players of their own, as `shap` computes them on encoded columns; the two agree for a sum of
functions of single features alone.

`shapley.ll` does this in machine code for rows of a block at once; NumPy does it where LLVM is not
installed, at a hundredth of the speed. The trees are data, and were checked; a bundle brings no
code.
"""

from __future__ import annotations

import ctypes
import re
import string
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.explainer import Arrays, Explanation, OpensProgram
from bascule.bundle.explaining.features import Features
from bascule.bundle.programs import is_runnable, machine_code, making
from bascule.core import Columns

PARENT, RIGHT, ABOVE, COLUMN, FLAGS, PLACE = range(6)
"""Columns of `links`; see `shapley.ll`."""
FAILS, PASSES_MISSING = 1, 2
"""Flags of a node."""
MAX_POINTS = 32
_LANES = 8
_BLOCKS_AT_ONCE = 64
_KEPT_TABLES = 1 << 25
"""Bytes of tables that are kept between calls; larger ones are made for every call."""
_NOTHING = 1e-30
"""Stands for a share of 0, by which nothing could be divided. It adds as much to a value."""

Sums = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From features, shape (blocks, columns, lanes), to sums, shape (blocks, places, lanes)."""


class TreeExplainer:
    """See `Explainer`. The arrays are those that `packing.explaining.trees` writes.

    Args:
        explanation: Its settings are `points` (of the quadrature), and those of `Features`.
        arrays: `firsts`, `links`, `numbers` and `shares` of the nodes; `base`; see `Features`.
    """

    def __init__(self, explanation: Explanation, arrays: Arrays, _program: OpensProgram) -> None:
        self.columns = explanation.columns
        self.outputs = explanation.outputs
        self.base = arrays["base"].astype(np.float64)
        self._features = Features(explanation, arrays)
        self._places = len(self.columns) * len(self.outputs)
        points = int(explanation.settings["points"])
        _check(arrays, points, self._features.width, self._places)
        if self.base.shape != (len(self.outputs),):
            raise ValueError("it has no base for each output")
        kind = _InMachineCode if is_runnable("llvm") else _InNumpy
        self._sums: Sums = kind(_Nodes(arrays, points), self._features.width, self._places)

    def attributions(self, inputs: Columns) -> NDArray[np.float64]:
        """See `Explainer.attributions`."""
        features = self._features(inputs)
        rows = len(features)
        answers = np.empty((rows, self._places))
        step = _BLOCKS_AT_ONCE * _LANES
        for start in range(0, rows, step):
            part = features[start : start + step]
            sums = self._sums(_in_blocks(part))
            answers[start : start + step] = sums.swapaxes(1, 2).reshape(-1, self._places)[
                : len(part)
            ]
        by_output = answers.reshape(rows, len(self.outputs), len(self.columns))
        return by_output.swapaxes(1, 2)


def _in_blocks(features: NDArray[Any]) -> NDArray[np.float64]:
    """Shape (blocks, columns, lanes); lanes beyond the last row are zero."""
    rows, columns = features.shape
    padded = np.zeros((-(-rows // _LANES), _LANES, columns))
    padded.reshape(-1, columns)[:rows] = features
    return np.ascontiguousarray(padded.swapaxes(1, 2))


def _check(arrays: Arrays, points: int, width: int, places: int) -> None:
    """Refuse numbers that would lead the machine code, which does not look, out of its memory."""
    firsts, links = arrays["firsts"], arrays["links"]
    count = len(links)
    good = (
        0 < points <= MAX_POINTS
        and firsts.dtype == np.int64
        and links.dtype == np.int32
        and firsts.ndim == 1
        and len(firsts) > 0
        and links.shape == (count, 6)
        and firsts[0] == 0
        and firsts[-1] == count
        and bool((np.diff(firsts) > 2).all())
        and all(arrays[name].dtype == np.float64 for name in ("numbers", "shares", "base"))
        and arrays["numbers"].shape == (count, 2)
        and arrays["shares"].shape == (count,)
    )
    if good and count:
        sizes = np.diff(firsts)
        own = np.arange(count) - np.repeat(firsts[:-1], sizes)
        end = np.repeat(sizes, sizes)
        right = links[:, RIGHT]
        good = bool(
            (links >= 0).all()
            and ((links[:, PARENT] < own) | (own == 0)).all()
            and ((links[:, ABOVE] < own) | (own == 0)).all()
            and ((right == 0) | ((right > own + 1) & (right < end))).all()
            and (links[:, COLUMN] < width).all()
            and (links[:, PLACE] < places).all()
        )
    if not good:
        raise ValueError("it holds a tree that leads nowhere")


class _Nodes:
    """The nodes of all trees, and the tables of the quadrature."""

    def __init__(self, arrays: Arrays, points: int) -> None:
        self.firsts: NDArray[np.int64] = arrays["firsts"]
        self.links: NDArray[np.int32] = np.ascontiguousarray(arrays["links"])
        self.numbers: NDArray[np.float64] = np.ascontiguousarray(arrays["numbers"])
        self.points = points
        self._shares = np.maximum(arrays["shares"], _NOTHING)
        places, weights = np.polynomial.legendre.leggauss(points)
        self._t, self._weights = (places + 1) / 2, weights / 2
        self.largest = int(np.diff(self.firsts).max(initial=0))
        self._row_bytes = 8 * 6 * points
        self._kept: NDArray[np.float64] | None = None
        if len(self.links) * self._row_bytes <= _KEPT_TABLES:
            self._kept = self._tables(0, len(self.links))

    @property
    def is_kept(self) -> bool:
        """Whether all tables are there."""
        return self._kept is not None

    def parts(self) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """The trees in parts: the first, the end, and the tables of their nodes."""
        trees = len(self.firsts) - 1
        if self._kept is not None:
            yield 0, trees, self._kept
            return
        begin, room = 0, _KEPT_TABLES // self._row_bytes
        while begin < trees:
            last = int(np.searchsorted(self.firsts, self.firsts[begin] + room, "right")) - 1
            end = max(begin + 1, last)
            yield begin, end, self._tables(int(self.firsts[begin]), int(self.firsts[end]))
            begin = end

    def _tables(self, begin: int, end: int) -> NDArray[np.float64]:
        """F0 F1 R0 R1 D0 D1, shape (nodes, 6, points), by whether a row goes to the node.

        F is the factor of the player; R is 1 / F, to take it away; D what remains of the sums.
        """
        share = self._shares[begin:end, None]
        without = (1 - self._t) * share
        of_both = without + self._t
        return np.stack(
            [
                without,
                of_both,
                1 / without,
                1 / of_both,
                np.broadcast_to(-self._weights / (1 - self._t), without.shape),
                (1 - share) * self._weights / of_both,
            ],
            axis=1,
        )


# -- machine code --


class _InMachineCode:
    """See `Sums`."""

    def __init__(self, nodes: _Nodes, width: int, places: int) -> None:
        self._nodes, self._places = nodes, places
        self._code = _machine_code(nodes.points)
        self._sizes = [width, places]
        self._scratch_bytes = nodes.largest * 8 * _LANES * (nodes.points + 1)
        self._kept = list(map(self._forest, nodes.parts())) if nodes.is_kept else []

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks = len(features)
        sums = np.zeros((blocks, self._places, _LANES))
        scratch = np.empty(self._scratch_bytes, np.uint8)
        for forest, trees, _ in self._kept or map(self._forest, self._nodes.parts()):
            self._code(
                forest.ctypes.data, trees, features.ctypes.data, blocks,
                scratch.ctypes.data, sums.ctypes.data,
            )  # fmt: skip
        return sums

    def _forest(
        self, part: tuple[int, int, NDArray[np.float64]]
    ) -> tuple[NDArray[np.int64], int, NDArray[np.float64]]:
        """`%Forest` of some trees, how many they are, and their tables, which it points to."""
        begin, end, tables = part
        nodes = self._nodes
        arrays = (nodes.firsts[begin:], nodes.links, nodes.numbers, tables)
        forest = np.array([*self._sizes, *(array.ctypes.data for array in arrays)], np.int64)
        return forest, end - begin, tables


_TABLE = ("F0", "F1", "R0", "R1", "D0", "D1")
_READS = {
    "field": (
        "{to}_at = getelementptr i32, ptr {0}, i64 {1}",
        "{to}_32 = load i32, ptr {to}_at",
        "{to} = zext i32 {to}_32 to i64",
    ),
    "all": (
        "{to}_at = getelementptr double, ptr {0}, i64 {1}",
        "{to}_x = load double, ptr {to}_at",
        "{to}_1 = insertelement $V poison, double {to}_x, i32 0",
        "{to} = shufflevector $V {to}_1, $V poison, <$LANES x i32> zeroinitializer",
    ),
    "either": (
        "{to}_a = all {1}, {2}",
        "{to}_b = all {1}, {3}",
        "{to} = select $B {0}, $V {to}_a, $V {to}_b",
    ),
}
_READ = re.compile(rf"\s*(%\w+) = ({'|'.join(_READS)}) (.*)")


@cache
def _machine_code(points: int) -> Any:
    with making:
        file = resources.files("bascule.bundle.explaining").joinpath("shapley.ll")
        types = {
            "LANES": _LANES,
            "V": f"<{_LANES} x double>",
            "B": f"<{_LANES} x i1>",
            "I": f"<{_LANES} x i64>",
            "NODE": f"[{points + 1} x <{_LANES} x double>]",
            "TABLE": f"[{6 * points} x double]",
        }
        text = file.read_text("utf-8").splitlines()
        lines = [line for own in text for line in _for_points(own, points)]
        lines = [line for own in lines for line in _read(own)]
        code = string.Template("\n".join(lines)).substitute(types)
        address, whole = ctypes.c_void_p, ctypes.c_int64
        return machine_code(code, "explain", (address, whole, address, whole, address, address))


def _for_points(line: str, points: int) -> Iterator[str]:
    """The line, once for each point where it has `@q`; see `shapley.ll`."""
    line = line.partition(";")[0].replace("@last", f"{points - 1}")
    for point in range(points if "@q" in line else 1):
        own = line.replace("@q", str(point)).replace("@n", str(point + 1))
        own = own.replace("@p", str(point - 1) if point else "_")
        for place, name in enumerate(_TABLE):
            own = own.replace(f"@{name}", str(place * points + point))
        yield own


def _read(line: str) -> Iterator[str]:
    match = _READ.fullmatch(line)
    if match is None:
        yield line
        return
    to, name, operands = match.groups()
    for template in _READS[name]:
        yield from _read(template.format(*operands.split(", "), to=to))


# -- NumPy --


class _InNumpy:
    """See `Sums`. The same steps as `shapley.ll` takes, for all rows at once."""

    def __init__(self, nodes: _Nodes, _width: int, places: int) -> None:
        self._nodes, self._places = nodes, places

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks, width, lanes = features.shape
        columns = features.swapaxes(0, 1).reshape(width, -1)
        sums = np.zeros((self._places, blocks * lanes))
        for begin, end, tables in self._nodes.parts():
            origin = self._nodes.firsts[begin]
            for first, last in zip(
                self._nodes.firsts[begin:end], self._nodes.firsts[begin + 1 : end + 1], strict=True
            ):
                own = tables[first - origin : last - origin]
                self._add(slice(first, last), own, columns, sums)
        return sums.reshape(self._places, blocks, lanes).swapaxes(0, 1)

    def _add(
        self,
        tree: slice,
        tables: NDArray[np.float64],
        columns: NDArray[np.float64],
        sums: NDArray[np.float64],
    ) -> None:
        """Add one tree; the arrays of a node have the shape (points, rows)."""
        links, numbers = self._nodes.links[tree].tolist(), self._nodes.numbers[tree].tolist()
        f0, f1, r0, r1, d0, d1 = tables.transpose(1, 0, 2)[..., None]
        goes = [np.ones(columns.shape[1], bool)]
        product = [np.ones((self._nodes.points, columns.shape[1]))]
        for node in range(1, len(links)):
            parent, right, above, column, flags, _ = links[node]
            threshold, value = numbers[node]
            values = columns[column]
            passes = values <= threshold
            if flags & PASSES_MISSING:
                passes |= np.isnan(values)
            goes.append((passes ^ bool(flags & FAILS)) & goes[above])
            here = product[parent] * np.where(goes[node], f1[node], f0[node])
            if above:
                here *= np.where(goes[above], r1[above], r0[above])
            product.append(here if right else here * value)
        for node in range(len(links) - 1, 0, -1):
            _, right, above, _, _, place = links[node]
            if right:
                product[node] = product[node + 1] + product[right]
            rest = np.where(goes[node], d1[node], d0[node])
            if above:
                rest = rest - np.where(goes[above], d1[above], d0[above])
            sums[place] += (product[node] * rest).sum(axis=0)
