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

LLVM makes machine code of `_Code`. It computes with vectors: of the rows of a block, or, for a row
alone, of the points. The trees are data, and were checked; a bundle brings no code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.explainer import Arrays, Explanation, Features, OpensProgram
from bascule.bundle.programs import is_runnable, machine_code, making
from bascule.core import Columns, MissingExtra

_LINKS = ("parent", "right", "above", "column", "flags", "place")
NODE = np.dtype([*((name, "i4") for name in _LINKS), ("threshold", "f8"), ("value", "f8"),
                 ("share", "f8")])  # fmt: skip
"""A node: its parent; its right child (0 for a leaf), the left one is behind it; the last node
above of the same player (0 for none); the feature that is tested; flags; the place in the sums; the
threshold; the value of a leaf, else 1; the share of rows that reach it where they reach `above`.
Nodes are in preorder, and count from the root of their tree."""
FAILS, PASSES_MISSING = 1, 2
"""Flags of a node: it is reached where the test fails; a missing value passes the test."""
MAX_POINTS = 32
_LANES = 8
_BLOCKS_AT_ONCE = 64
_FEW_ROWS = 2
"""So many are computed one by one."""
_NOTHING = 1e-30
"""Stands for a share of 0, by which nothing could be divided. It adds as much to a value."""


class TreeExplainer:
    """See `Explainer`. The arrays are those that `packing.explaining.trees` writes.

    Args:
        explanation: Its settings are `points` (of the quadrature), and those of `Features`.
        arrays: `nodes` of all trees, each a `NODE`; `firsts`, the first node of each tree, and the
            end; `base`. See `Features`.
    """

    def __init__(self, explanation: Explanation, arrays: Arrays, _program: OpensProgram) -> None:
        if not is_runnable("llvm"):
            raise MissingExtra(
                "explanations of trees are computed by machine code that LLVM makes, "
                "and it is not installed or not allowed",
                hint="pip install 'bascule[llvm]'",
            )
        self.columns, self.outputs = explanation.columns, explanation.outputs
        self.base = arrays["base"]
        self._features = Features(explanation, arrays)
        self._places = len(self.columns) * len(self.outputs)
        self._points = int(explanation.settings["points"])
        if self.base.shape != (len(self.outputs),):
            raise ValueError("it has no base for each output")
        _check(arrays, self._points, self._features.width, self._places)
        self._trees = len(arrays["firsts"]) - 1
        nodes = np.ascontiguousarray(arrays["nodes"])
        self._read = (arrays["firsts"], nodes, _tables(nodes["share"], self._points))
        self._addresses = [read.ctypes.data for read in self._read]
        self._most_nodes = int(np.diff(arrays["firsts"]).max())
        self._of_blocks, self._of_a_row = (_explain_of(self._points, x) for x in (False, True))

    def attributions(self, inputs: Columns) -> NDArray[np.float64]:
        """See `Explainer.attributions`."""
        features = self._features(inputs)
        rows = len(features)
        sums: NDArray[np.float64]
        if 0 < rows <= _FEW_ROWS:
            repeated = np.repeat(features.astype(np.float64)[:, :, None], self._points, axis=2)
            sums = self._sums(self._of_a_row, repeated).sum(axis=2)
        else:
            sums = np.empty((rows, self._places))
            step = _BLOCKS_AT_ONCE * _LANES
            for start in range(0, rows, step):
                part = features[start : start + step]
                by_lane = self._sums(self._of_blocks, _in_blocks(part)).swapaxes(1, 2)
                sums[start : start + step] = by_lane.reshape(-1, self._places)[: len(part)]
        return sums.reshape(rows, len(self.outputs), len(self.columns)).swapaxes(1, 2)

    def _sums(self, code: Any, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """From features, shape (blocks, columns, lanes), to sums, shape (blocks, places, lanes)."""
        blocks, width, lanes = features.shape
        sums = np.zeros((blocks, self._places, lanes))
        scratch = np.empty(self._most_nodes * lanes * (self._points + 1))
        code(
            *self._addresses, self._trees, features.ctypes.data, width, blocks,
            scratch.ctypes.data, sums.ctypes.data, self._places,
        )  # fmt: skip
        return sums


def _in_blocks(features: NDArray[Any]) -> NDArray[np.float64]:
    """Shape (blocks, columns, lanes); lanes beyond the last row are zero."""
    rows, columns = features.shape
    padded = np.zeros((-(-rows // _LANES), _LANES, columns))
    padded.reshape(-1, columns)[:rows] = features
    return np.ascontiguousarray(padded.swapaxes(1, 2))


def _check(arrays: Arrays, points: int, width: int, places: int) -> None:
    """Refuse numbers that would lead the machine code, which does not look, out of its memory."""
    firsts, nodes = arrays["firsts"], arrays["nodes"]
    good = (
        0 < points <= MAX_POINTS
        and (firsts.dtype == np.int64 and nodes.dtype == NODE)
        and (firsts.ndim == nodes.ndim == 1 < len(firsts))
        and (firsts[0] == 0 and firsts[-1] == len(nodes))
        and bool((np.diff(firsts) > 2).all())
    )
    if good:
        sizes = np.diff(firsts)
        own = np.arange(len(nodes)) - np.repeat(firsts[:-1], sizes)
        ends, right = np.repeat(sizes, sizes), nodes["right"]
        good = bool(
            all((nodes[name] >= 0).all() for name in _LINKS)
            and all(((nodes[name] < own) | (own == 0)).all() for name in ("parent", "above"))
            and ((right == 0) | ((right > own + 1) & (right < ends))).all()
            and (nodes["column"] < width).all()
            and (nodes["place"] < places).all()
        )
    if not good:
        raise ValueError("it holds a tree that leads nowhere")


def _quadrature(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places, weights = np.polynomial.legendre.leggauss(points)
    return (places + 1) / 2, weights / 2


_F0, _F1, _R0, _R1, _D1 = range(5)


def _tables(shares: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """F0 F1 R0 R1 D1, shape (nodes, 5, points); 0 and 1 say whether a row goes to the node.

    F is the factor of the player; R is 1 / F, to take it away; D what remains of the sums. D0 is
    the same for all nodes.
    """
    t, weights = _quadrature(points)
    share = np.maximum(shares, _NOTHING)[:, None]
    without = (1 - t) * share
    of_both = without + t
    parts = (without, of_both, 1 / without, 1 / of_both, (1 - share) * weights / of_both)
    return np.stack(parts, axis=1)


# -- machine code --


@cache
def _explain_of(points: int, of_a_row: bool) -> Any:
    """`explain`, for so many points: vectors are of the points of a row, else of the rows."""
    with making:
        address, whole = ctypes.c_void_p, ctypes.c_int64
        kinds = (*[address] * 3, whole, address, whole, whole, address, address, whole)
        return machine_code(_Code(points, of_a_row).text(), "explain", kinds)


class _Code:
    """`explain` in LLVM's language.

    `scratch` has a slot for each node of a tree: a mask of the rows that go there as far as its
    player decides, and the products at the points.
    """

    def __init__(self, points: int, of_a_row: bool) -> None:
        from llvmlite import ir

        self._points, self._of_a_row = points, of_a_row
        self._lanes = points if of_a_row else _LANES
        self._steps = range(1 if of_a_row else points)
        self._whole, self._small, self._double = ir.IntType(64), ir.IntType(32), ir.DoubleType()
        self._bit, self._array, self._constant = ir.IntType(1), ir.ArrayType, ir.Constant
        self._vector, self._mask, self._choice = (
            ir.VectorType(kind, self._lanes) for kind in (self._double, self._whole, self._small)
        )
        self._numbers = ir.ArrayType(self._double, self._lanes)
        self._slot = ir.ArrayType(self._numbers, len(self._steps) + 1)
        t, weights = _quadrature(points)
        rests = (-weights / (1 - t)).tolist()
        self._d0 = [
            ir.Constant(self._vector, rests if of_a_row else [rests[step]] * self._lanes)
            for step in self._steps
        ]
        self._module, address = ir.Module(), ir.PointerType()
        whole, nothing = self._whole, ir.VoidType()
        kinds = (*[address] * 3, whole, address, whole, whole, address, address, whole)
        function = ir.Function(self._module, ir.FunctionType(nothing, kinds), "explain")
        self._multiply_add = ir.Function(
            self._module,
            ir.FunctionType(self._vector, [self._vector] * 3),
            f"llvm.fmuladd.v{self._lanes}f64",
        )
        self._arguments = function.args
        self._b = ir.IRBuilder(function.append_basic_block())

    def text(self) -> str:
        """The module."""
        b, whole, zero, one = self._b, self._whole, self._whole(0), self._whole(1)
        firsts, nodes, tables, trees, x, width, blocks, scratch, sums, places = self._arguments
        for pointer in (x, scratch, sums):
            pointer.add_attribute("noalias")
        sizes = (NODE.itemsize // 8, 5 * self._points)
        kinds = [self._array(self._double, size) for size in sizes]
        with self._loop(zero, trees) as tree:
            first, end = (
                b.load(self._at(firsts, whole, b.add(tree, k)), typ=whole) for k in (zero, one)
            )
            self._nodes = [*map(self._at, (nodes, tables), kinds, [first] * 2), scratch]
            self._node_kinds = [*kinds, self._slot]
            count = b.sub(end, first)
            with self._loop(zero, blocks) as block:
                features = self._at(x, self._numbers, b.mul(block, width))
                totals = self._at(sums, self._numbers, b.mul(block, places))
                self._store(self._constant(self._mask, [-1] * self._lanes), scratch, zero)
                for step in self._steps:
                    ones = self._constant(self._vector, [1.0] * self._lanes)
                    self._store(ones, scratch, whole(step + 1))
                with self._loop(one, count) as node:
                    self._down(node, features)
                with self._loop(one, count) as back:
                    self._up(b.sub(count, back), totals)
        b.ret_void()
        return str(self._module)

    def _down(self, node: Any, features: Any) -> None:
        """From the root down: the mask of a node, and the product of the factors from the root."""
        b = self._b
        link, table, own = self._node(node)
        parent, _, above, column, flags, _ = self._links(link)
        values, threshold = self._load(features, column), self._number(link, "threshold")
        passes = b.select(
            b.trunc(b.lshr(flags, self._whole(1)), self._bit),
            b.fcmp_unordered("<=", values, threshold),
            b.fcmp_ordered("<=", values, threshold),
        )
        goes = b.xor(passes, self._all(b.trunc(flags, self._bit)))
        products = self._products(self._node(parent)[-1])

        def of_a_player_again() -> list[Any]:
            _, table_above, slot_above = self._node(above)
            went = self._goes(slot_above)
            back = [self._either(went, table_above, _R1, _R0, step) for step in self._steps]
            return [b.and_(goes, went), *map(b.fmul, products, back)]

        goes, *products = self._instead(above, [goes, *products], of_a_player_again)
        self._store(b.sext(goes, self._mask), own, self._whole(0))
        value = self._number(link, "value")
        for step in self._steps:
            product = b.fmul(products[step], self._either(goes, table, _F1, _F0, step))
            self._store(b.fmul(product, value), own, self._whole(step + 1))

    def _up(self, node: Any, totals: Any) -> None:
        """From the leaves up: the sum of what is below a node, and what its player adds by it.

        What is below belongs to this node, and not to the one above of the same player.
        """
        b = self._b
        link, table, own = self._node(node)
        _, right, above, _, _, place = self._links(link)

        def of_both() -> list[Any]:
            left_and_right = (b.add(node, self._whole(1)), right)
            sums = list(map(b.fadd, *(self._products(self._node(k)[-1]) for k in left_and_right)))
            for step in self._steps:
                self._store(sums[step], own, self._whole(step + 1))
            return sums

        below = self._instead(right, self._products(own), of_both)
        goes, total = self._goes(own), self._load(totals, place)
        for step in self._steps:
            rest = b.select(goes, self._of_table(table, _D1, step), self._d0[step])
            total = b.call(self._multiply_add, [below[step], rest, total])

        def without_the_one_above() -> list[Any]:
            _, table_above, slot_above = self._node(above)
            went, less = self._goes(slot_above), total
            for step in self._steps:
                rest = b.select(went, self._of_table(table_above, _D1, step), self._d0[step])
                less = b.call(self._multiply_add, [b.fneg(below[step]), rest, less])
            return [less]

        (total,) = self._instead(above, [total], without_the_one_above)
        self._store(total, totals, place)

    def _node(self, node: Any) -> list[Any]:
        """Where a node, its table and its slot are."""
        return [
            self._at(own, kind, node)
            for own, kind in zip(self._nodes, self._node_kinds, strict=True)
        ]

    def _links(self, node: Any) -> list[Any]:
        read = [self._at(node, self._small, self._whole(k)) for k in range(len(_LINKS))]
        return [self._b.zext(self._b.load(at, typ=self._small), self._whole) for at in read]

    def _products(self, slot: Any) -> list[Any]:
        return [self._load(slot, self._whole(step + 1)) for step in self._steps]

    def _goes(self, slot: Any) -> Any:
        mask = self._b.load(slot, typ=self._mask, align=8)
        return self._b.icmp_signed("<", mask, self._constant(self._mask, None))

    def _either(self, goes: Any, table: Any, yes: int, no: int, step: int) -> Any:
        both = (self._of_table(table, name, step) for name in (yes, no))
        return self._b.select(goes, *both)

    def _of_table(self, table: Any, name: int, step: int) -> Any:
        at = self._at(table, self._double, self._whole(name * self._points + step))
        if self._of_a_row:
            return self._b.load(at, typ=self._vector, align=8)
        return self._all(self._b.load(at, typ=self._double))

    def _number(self, node: Any, name: str) -> Any:
        assert NODE.fields is not None
        at = self._at(node, self._double, self._whole(NODE.fields[name][1] // 8))
        return self._all(self._b.load(at, typ=self._double))

    def _at(self, pointer: Any, kind: Any, index: Any) -> Any:
        return self._b.gep(pointer, [index], source_etype=kind)

    def _load(self, pointer: Any, index: Any) -> Any:
        return self._b.load(self._at(pointer, self._numbers, index), typ=self._vector, align=8)

    def _store(self, value: Any, pointer: Any, index: Any) -> None:
        self._b.store(value, self._at(pointer, self._numbers, index), align=8)

    def _all(self, value: Any) -> Any:
        """A vector of the value."""
        kind = type(self._vector)(value.type, self._lanes)
        alone = self._b.insert_element(self._constant(kind, None), value, self._small(0))
        return self._b.shuffle_vector(alone, alone, self._constant(self._choice, None))

    @contextmanager
    def _loop(self, start: Any, end: Any) -> Iterator[Any]:
        """From `start` to below `end`; at least once."""
        b = self._b
        before, body = b.block, b.append_basic_block()
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(self._whole)
        index.add_incoming(start, before)
        yield index
        following, after = b.add(index, self._whole(1)), b.append_basic_block()
        index.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("==", following, end), after, body)
        b.position_at_end(after)

    def _instead(self, node: Any, usual: list[Any], computed: Callable[[], list[Any]]) -> list[Any]:
        """What is computed where there is a node, else what is usual."""
        b = self._b
        before = b.block
        with b.if_then(b.icmp_signed("!=", node, self._whole(0))):
            others, last = computed(), b.block
        merged = [b.phi(value.type) for value in usual]
        for phi, value, other in zip(merged, usual, others, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(other, last)
        return merged
