"""The expressions of compositions: what they may say, their types, and how they are computed.

A small part of Python's grammar, parsed by `ast.parse` and never evaluated as Python: each node of
the tree is one of those below, or the expression is refused.

    amount   late.prediction   late.probabilities['yes']   column('a name')   column('part.a name')
    + - * /   == != < <= > >=   in [...]   and or not   missing(x)   12 'text' true

A comparison with a missing value is false, `!=` too; `missing(x)` asks. Arithmetic is in FP64.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import is_missing
from bascule.core import DType, Field, Invalid

_MAX_NODES = 200
_HINT = "such as late.prediction > 0.8 and weekday in [6, 7]"

Key = tuple[str, str]
"""A column: the part that gives it, empty for the request, and its name."""
Values = Mapping[Key, NDArray[Any]]
Label = str | int | None


class Column(NamedTuple):
    """What a reference names: a column, and the place in each of its rows; None for all."""

    key: Key
    field: Field
    place: int | None = None


Find = Callable[[str, str, Label], Column]
"""By part (empty: the request), name and label: the column. Raises `Invalid`."""


@dataclass(frozen=True, slots=True)
class Expression:
    """Something to compute: its type, the columns that it reads, and `run`.

    `run` gives a single value, in place of one by row, where it reads nothing.
    """

    field: Field
    reads: tuple[Key, ...]
    run: Callable[[Values], Any]

    @property
    def kind(self) -> str:
        dtype = self.field.dtype
        return {DType.BYTES: "text", DType.BOOL: "truth value"}.get(dtype, "number")

    def of(self, values: Values, rows: int) -> NDArray[Any]:
        """Its values for so many rows."""
        result = self.run(values)
        return np.asarray(result) if self.reads else np.full(rows, result, self.field.dtype.numpy)


def parse(text: str, find: Find, at: str, kind: str = "") -> Expression:
    """Read an expression.

    Args:
        text: The expression.
        find: Finds columns.
        at: Where it is written, for messages.
        kind: `text`, `number` or `truth value`; empty for any, and for any shape.

    Raises:
        Invalid: It says what none may say, names no column, or its types do not fit.
    """
    with placed(at):
        return _Reader(find).read(_tree(text), kind)


def find_column(text: str, find: Find, at: str) -> Column:
    """The column that a reference names. Raises `Invalid`."""
    with placed(at):
        return _found(_tree(text), find)


def constant(value: str | bool | int | float) -> Expression:
    """A value as an expression. Raises `Invalid`."""
    types = {str: DType.BYTES, bool: DType.BOOL, int: DType.INT64, float: DType.FP64}
    dtype = types[type(value)]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Invalid("a whole number has 64 bits", hint="write it with a point")
    return Expression(Field("", dtype), (), lambda _: value)


@contextmanager
def placed(at: str) -> Iterator[None]:
    """Say the place in what is raised."""
    try:
        yield
    except Invalid as problem:
        raise Invalid(f"{at}: {problem.message}", hint=problem.hint) from None


def _tree(text: str) -> ast.expr:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if sum(1 for _ in ast.walk(tree)) <= _MAX_NODES:
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise Invalid(f"{text[:200]!r} is no expression", hint=_HINT)


_ARITHMETIC: dict[type, Any] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
}  # fmt: skip
_COMPARISONS: dict[type, Any] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


class _Reader:
    def __init__(self, find: Find) -> None:
        self._find = find

    def read(self, node: ast.expr, kind: str = "") -> Expression:
        """Raises `Invalid` unless it is one value of that kind in each row."""
        expression = self._read(node)
        shape = expression.field.shape
        if kind and (shape or expression.kind != kind):
            actual = f"{list(shape)} values" if shape else f"a {expression.kind}"
            message = f"{ast.unparse(node)} is {actual} in a row, and a {kind} is needed"
            raise Invalid(message, hint=_HINT)
        return expression

    def _read(self, node: ast.expr) -> Expression:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return constant(value)
            case ast.Name(id="true" | "false" as name):
                return constant(name == "true")
            case ast.BoolOp(op=op, values=nodes):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _of(DType.BOOL, join, [self.read(child, "truth value") for child in nodes])
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                condition = self.read(inner, "truth value")
                return replace(condition, run=lambda values: np.logical_not(condition.run(values)))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self._read(ast.BinOp(ast.Constant(0), ast.Sub(), inner))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                compute = partial(_ARITHMETIC[type(op)], dtype=np.float64)
                return _of(
                    DType.FP64, compute, [self.read(side, "number") for side in (left, right)]
                )
            case ast.Compare(
                left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[ast.List(elts=[*nodes])]
            ) if nodes:
                is_in = isinstance(op, ast.In)
                single = ast.Eq() if is_in else ast.NotEq()
                pairs: list[ast.expr] = [ast.Compare(left, [single], [child]) for child in nodes]
                return self._read(ast.BoolOp(ast.Or() if is_in else ast.And(), pairs))
            case ast.Compare(left=left, ops=ops, comparators=nodes):
                lefts = [left, *nodes]
                return _of(DType.BOOL, np.logical_and, list(map(self._pair, ops, lefts, nodes)))
            case ast.Call(func=ast.Name(id="missing"), args=[inner], keywords=[]):
                key, field, place = _found(inner, self._find)
                column = self.read(inner, _of_column(key, field, place).kind)
                is_there = Field("", DType.BOOL)
                return Expression(is_there, (key,), lambda values: is_missing(column.run(values)))
        return _of_column(*_found(node, self._find))

    def _pair(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Expression:
        kind = self.read(left).kind
        sides = [self.read(left, kind), self.read(right, kind)]
        compare = _COMPARISONS.get(type(op))
        if compare is None or (kind != "number" and not isinstance(op, ast.Eq | ast.NotEq)):
            raise Invalid(f"a {kind} is compared with ==, != and in [...]", hint=_HINT)
        # NaN answers false by itself, but to !=; None is equal to None.
        reading = [side for side in sides if side.reads]
        is_guarded = isinstance(op, ast.NotEq) or (kind == "text" and len(reading) == 2)
        comparison = _of(DType.BOOL, compare, sides)
        if not is_guarded:
            return comparison

        def run(values: Values) -> Any:
            there = [~is_missing(side.run(values)) for side in reading]
            return reduce(np.logical_and, there, comparison.run(values))

        return replace(comparison, run=run)


def _found(node: ast.expr, find: Find) -> Column:
    match node:
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as label)):
            return find(*_names(inner), label)
    return find(*_names(node), None)


def _of_column(key: Key, field: Field, place: int | None) -> Expression:
    if place is None:
        return Expression(field, (key,), lambda values: values[key])
    plain = replace(field, name="", shape=())
    return Expression(plain, (key,), lambda values: values[key][:, place])


def _names(node: ast.AST) -> Key:
    """The part, or nothing, and the column that a reference names."""
    match node:
        case ast.Name(id=name):
            return "", name
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)]):
            part, point, output = name.partition(".")
            return (part, output) if point else ("", name)
        case ast.Attribute(value=ast.Name(id=part), attr=name):
            return part, name
    message = f"{ast.unparse(node)!r} is not something that an expression may say"
    raise Invalid(message, hint=_HINT)


def _of(dtype: DType, compute: Any, parts: Sequence[Expression]) -> Expression:
    """What a function of two makes of parts, from the left to the right."""
    runs = [part.run for part in parts]
    reads = tuple(dict.fromkeys(key for part in parts for key in part.reads))
    nullable = dtype is not DType.BOOL and any(part.field.nullable for part in parts)
    field = Field("", dtype, nullable=nullable)
    return Expression(field, reads, lambda values: reduce(compute, [run(values) for run in runs]))
