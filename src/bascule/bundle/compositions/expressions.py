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
from collections.abc import Callable, Mapping
from contextlib import suppress
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
    """Something to compute: its type, the columns that it reads, and `run`, by row.

    `run` gives a single value, or one that is of all rows, where it reads nothing.
    """

    text: str
    field: Field
    reads: tuple[Key, ...]
    run: Callable[[Values], Any]

    @property
    def kind(self) -> str:
        dtype = self.field.dtype
        return {DType.BYTES: "text", DType.BOOL: "truth value"}.get(dtype, "number")

    def of(self, values: Values, rows: int) -> NDArray[Any]:
        """Its values for so many rows."""
        found = self.run(values)
        return np.asarray(found) if self.reads else np.full(rows, found, self.field.dtype.numpy)


def parse(text: str, find: Find, at: str, *, is_condition: bool = False) -> Expression:
    """Read an expression.

    Args:
        text: The expression.
        find: Finds columns.
        at: Where it is written, for messages.
        is_condition: Whether it must be true or false of each row.

    Raises:
        Invalid: It says what none may say, names no column, or its types do not fit.
    """
    tree = _tree(text)
    if tree is None:
        raise Invalid(f"{at}: {text!r} is no expression", hint=_HINT)
    try:
        made = replace(_Reader(find).read(tree), text=text)
        return _checked(made, "truth value") if is_condition else made
    except Invalid as problem:
        raise Invalid(f"{at}: {problem.message}", hint=problem.hint or _HINT) from None


def owners(text: str) -> list[str]:
    """What stands before a point in an expression: its parts. Nothing where it is none."""
    tree = _tree(text)
    found = []
    for node in () if tree is None else ast.walk(tree):
        with suppress(Invalid):
            found.append(_names(node)[0])
    return found


def constant(value: str | bool | int | float) -> Expression:
    """A value as an expression."""
    types = {str: DType.BYTES, bool: DType.BOOL, int: DType.INT64, float: DType.FP64}
    dtype = types[type(value)]
    if dtype is DType.INT64 and abs(value) >= 2**63:  # type: ignore[arg-type]  # a whole number
        dtype = DType.FP64
    return Expression(repr(value), Field("", dtype), (), lambda _: value)


def _tree(text: str) -> ast.expr | None:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if sum(1 for _ in ast.walk(tree)) <= _MAX_NODES else None


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
        return _checked(replace(self._read(node), text=ast.unparse(node)), kind)

    def _read(self, node: ast.expr) -> Expression:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return constant(value)
            case ast.Name(id="true" | "false" as name):
                return constant(name == "true")
            case ast.BoolOp():
                join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return _of(DType.BOOL, join, [self.read(one, "truth value") for one in node.values])
            case ast.UnaryOp(op=ast.Not()):
                inner = self.read(node.operand, "truth value")
                return replace(inner, run=lambda values: np.logical_not(inner.run(values)))
            case ast.UnaryOp(op=ast.USub()):
                sides = [constant(0), self.read(node.operand, "number")]
                return _of(DType.FP64, partial(np.subtract, dtype=np.float64), sides)
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                sides = [self.read(one, "number") for one in (node.left, node.right)]
                return _of(DType.FP64, partial(_ARITHMETIC[type(op)], dtype=np.float64), sides)
            case ast.Compare():
                return self._compared(node)
            case ast.Call(func=ast.Name(id="missing"), args=[inner], keywords=[]):
                column = self._reference(inner)
                _checked(column, column.kind)
                return replace(
                    column,
                    field=Field("", DType.BOOL),
                    run=lambda values: is_missing(column.run(values)),
                )
        return self._reference(node)

    def _reference(self, node: ast.expr) -> Expression:
        label: Label = None
        match node:
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as said)):
                node, label = inner, said
        key, field, place = self._find(*_names(node), label)
        if place is None:
            return Expression("", field, (key,), lambda values: values[key])
        plain = replace(field, name="", shape=())
        return Expression("", plain, (key,), lambda values: values[key][:, place])

    def _compared(self, node: ast.Compare) -> Expression:
        found, left = [], node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                is_in = isinstance(op, ast.In)
                single = ast.Eq() if is_in else ast.NotEq()
                join = np.logical_or if is_in else np.logical_and
                values = right.elts if isinstance(right, ast.List) else []
                if not values or any(self.read(one).reads for one in values):
                    raise Invalid("`in` needs a list of constants", hint="weekday in [6, 7]")
                found.append(
                    _of(DType.BOOL, join, [self._pair(single, left, one) for one in values])
                )
            else:
                found.append(self._pair(op, left, right))
            left = right
        return _of(DType.BOOL, np.logical_and, found)

    def _pair(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Expression:
        sides = [self.read(left), self.read(right)]
        kind = _checked(sides[0], sides[0].kind).kind
        _checked(sides[1], kind)
        compare = _COMPARISONS.get(type(op))
        is_equality = isinstance(op, ast.Eq | ast.NotEq)
        if compare is None or (kind != "number" and not is_equality):
            raise Invalid(f"a {kind} is compared with ==, != and in", hint=_HINT)
        made = _of(DType.BOOL, compare, sides)
        # NaN answers false by itself, but to !=; None is equal to None.
        guarded = [one for one in sides if one.field.nullable or one.field.dtype.is_float]
        if not guarded or not is_equality or (kind == "number" and isinstance(op, ast.Eq)):
            return made

        def run(values: Values) -> Any:
            there = [~is_missing(np.asarray(one.run(values))) for one in guarded]
            return reduce(np.logical_and, there, made.run(values))

        return replace(made, run=run)


def _names(node: ast.AST) -> tuple[str, str]:
    """The part, or nothing, and the column that a reference names."""
    match node:
        case ast.Name(id=name):
            return "", name
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)]):
            part, point, output = name.partition(".")
            return (part, output) if point else ("", name)
        case ast.Attribute(value=ast.Name(id=part), attr=name):
            return part, name
        case ast.Attribute(value=ast.Attribute() as inner, attr=name):  # an output of one target
            part, first = _names(inner)
            return part, f"{first}.{name}"
    said = f"{ast.unparse(node)!r} is not something that an expression may say"
    raise Invalid(said, hint=_HINT)


def _checked(made: Expression, kind: str) -> Expression:
    """Raise `Invalid` unless it is one value of that kind in each row; any shape if empty."""
    if kind and (made.field.shape or made.kind != kind):
        found = f"{list(made.field.shape)} values" if made.field.shape else f"a {made.kind}"
        raise Invalid(f"{made.text} is {found} in a row, and a {kind} is needed", hint=_HINT)
    return made


def _of(dtype: DType, compute: Any, parts: list[Expression]) -> Expression:
    """What a function of two makes of parts, from the left to the right."""
    runs = [one.run for one in parts]
    reads = tuple(dict.fromkeys(key for one in parts for key in one.reads))
    nullable = dtype is not DType.BOOL and any(one.field.nullable for one in parts)
    field = Field("", dtype, nullable=nullable)
    if len(runs) == 2:
        left, right = runs
        return Expression("", field, reads, lambda values: compute(left(values), right(values)))
    return Expression(
        "", field, reads, lambda values: reduce(compute, [run(values) for run in runs])
    )
