"""The expressions of compositions: what they may say, their types, and how they are computed.

A small part of Python's grammar, parsed by `ast.parse` and never evaluated as Python: each node of
the tree is one of those below, or the expression is refused.

    amount   late.prediction   late.probabilities['yes']   column('a name with spaces')
    + - * /   == != < <= > >=   in [...]   and or not   missing(x)   12 'text' true

A comparison with a missing value is false, `!=` too; `missing(x)` asks. Arithmetic is in FP64.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import is_missing
from bascule.core import DType, Field, Invalid

_MAX_DEPTH = 40
_TEXTS, _NUMBERS, _TRUTHS = "text", "number", "truth value"

Key = tuple[str, str]
"""A column: the part that gives it, empty for the request, and its name."""
Values = Mapping[Key, NDArray[Any]]
Run = Callable[[Values], Any]
"""The values of an expression by row; a single value for a constant."""


class Column(NamedTuple):
    """What a reference names: a column, and the place in each of its rows; None for all."""

    key: Key
    field: Field
    place: int | None = None


Resolve = Callable[[str, str, "str | int | None"], Column]
"""By part (empty: unknown), name and label: the column. Raises `Invalid`."""


@dataclass(frozen=True, slots=True)
class Expression:
    """Something to compute.

    Attributes:
        text: As it is written.
        field: Type and shape of its values.
        reads: The columns that it needs.
        run: Computes it.
        is_constant: Whether `run` gives a single value.
    """

    text: str
    field: Field
    reads: tuple[Key, ...]
    run: Run
    is_constant: bool = False

    @property
    def kind(self) -> str:
        if self.field.dtype is DType.BYTES:
            return _TEXTS
        return _TRUTHS if self.field.dtype is DType.BOOL else _NUMBERS

    def of(self, values: Values, rows: int) -> NDArray[Any]:
        """Its values for so many rows."""
        found = self.run(values)
        if self.is_constant:
            return np.full(rows, found, self.field.dtype.numpy)
        return np.asarray(found)


def parse(text: str, resolve: Resolve, at: str) -> Expression:
    """Read an expression.

    Args:
        text: The expression.
        resolve: Finds columns.
        at: Where it is written, for messages.

    Raises:
        Invalid: It says what none may say, names no column, or its types do not fit.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Invalid(f"{at}: {text!r} is no expression", hint=_HINT) from None
    try:
        return replace(_Parser(resolve).read(tree), text=text)
    except Invalid as problem:
        raise Invalid(f"{at}: {problem.message}", hint=problem.hint or _HINT) from None


def condition(text: str, resolve: Resolve, at: str) -> Expression:
    """Read an expression that is true or false of each row. Raises as `parse`."""
    made = parse(text, resolve, at)
    if made.kind != _TRUTHS or made.field.shape:
        raise Invalid(
            f"{at}: {text!r} is a {made.kind}, and a condition is true or false",
            hint="compare it: amount > 100",
        )
    return made


def owners(text: str) -> list[str]:
    """What stands before a point in an expression: its parts. Nothing where it is none."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def constant(value: str | bool | int | float) -> Expression:
    """A value as an expression."""
    if isinstance(value, str):
        dtype = DType.BYTES
    elif isinstance(value, bool):
        dtype = DType.BOOL
    else:
        dtype = DType.INT64 if isinstance(value, int) and abs(value) < 2**63 else DType.FP64
    return Expression(repr(value), Field("", dtype), (), lambda _: value, is_constant=True)


_HINT = "such as late.prediction > 0.8 and weekday in [6, 7]"
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_WORDS = {"true": True, "false": False}


class _Parser:
    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._depth = 0

    def read(self, node: ast.expr) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Invalid(f"it is nested more than {_MAX_DEPTH} deep")
        try:
            return self._read(node)
        finally:
            self._depth -= 1

    def _read(self, node: ast.expr) -> Expression:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return constant(value)
            case ast.Name(id=name) if name in _WORDS:
                return constant(_WORDS[name])
            case ast.BoolOp():
                join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return self._joined(join, [self._truth(one) for one in node.values])
            case ast.UnaryOp(op=ast.Not()):
                inner = self._truth(node.operand)
                return replace(inner, run=lambda values: np.logical_not(inner.run(values)))
            case ast.UnaryOp(op=ast.USub()):
                zero = constant(0)
                return self._computed(np.subtract, zero, self._number(node.operand))
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                left, right = self._number(node.left), self._number(node.right)
                return self._computed(_ARITHMETIC[type(op)], left, right)
            case ast.Compare():
                return self._compared(node)
            case ast.Call(func=ast.Name(id="missing"), args=[inner], keywords=[]):
                return self._missing(self.read(inner))
        return self._reference(node)

    def _reference(self, node: ast.expr) -> Expression:
        label: str | int | None = None
        inner = node
        if isinstance(node, ast.Subscript):
            place_said = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if not isinstance(place_said, str | int):
                raise Invalid(f"{ast.unparse(node)}: a place is a class or a whole number")
            inner, label = node.value, place_said
        part, name = _names(inner)
        column = self._resolve(part, name, label)
        field, key = column.field, column.key
        if column.place is not None:
            place = column.place
            plain = Field("", field.dtype, nullable=field.nullable)
            return Expression(
                ast.unparse(node), plain, (key,), lambda values: values[key][:, place]
            )
        return Expression(ast.unparse(node), field, (key,), lambda values: values[key])

    def _compared(self, node: ast.Compare) -> Expression:
        sides = [node.left, *node.comparators]
        found = []
        for op, left, right in zip(node.ops, sides, node.comparators, strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                found.append(self._among(self._value(left), right, is_in=isinstance(op, ast.In)))
            else:
                found.append(self._pair(op, self._value(left), self._value(right)))
        return self._joined(np.logical_and, found)

    def _pair(self, op: ast.cmpop, left: Expression, right: Expression) -> Expression:
        compare = _COMPARISONS.get(type(op))
        _check_same(left, right)
        if compare is None or (left.kind != _NUMBERS and not isinstance(op, ast.Eq | ast.NotEq)):
            raise Invalid(f"{left.kind}s are compared with ==, != and in")
        reads = (*left.reads, *right.reads)
        guarded = [one for one in (left, right) if one.field.nullable]
        # NaN answers false by itself, but to !=; None is equal to None.
        needs_guard = isinstance(op, ast.NotEq) or left.kind == _TEXTS

        def run(values: Values) -> Any:
            held = compare(left.run(values), right.run(values))
            if needs_guard:
                for one in guarded:
                    held = np.logical_and(held, ~is_missing(np.asarray(one.run(values))))
            return held

        return _truth(reads, run, is_constant=left.is_constant and right.is_constant)

    def _among(self, left: Expression, right: ast.expr, *, is_in: bool) -> Expression:
        if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
            raise Invalid("`in` needs a list of constants", hint="weekday in [6, 7]")
        pairs = [self._pair(ast.Eq(), left, self._constant(one)) for one in right.elts]
        held = self._joined(np.logical_or, pairs)
        if is_in:
            return held
        other = [self._pair(ast.NotEq(), left, self._constant(one)) for one in right.elts]
        return self._joined(np.logical_and, other)

    def _constant(self, node: ast.expr) -> Expression:
        made = self._value(node)
        if not made.is_constant:
            raise Invalid("`in` needs a list of constants", hint="weekday in [6, 7]")
        return made

    def _missing(self, inner: Expression) -> Expression:
        if inner.field.shape or inner.is_constant:
            raise Invalid(f"missing() is asked of a column, and {inner.text} is none")
        return _truth(inner.reads, lambda values: is_missing(inner.run(values)))

    def _joined(self, join: Any, parts: list[Expression]) -> Expression:
        if len(parts) == 1:
            return parts[0]
        reads = tuple(key for one in parts for key in one.reads)
        runs = [one.run for one in parts]
        is_constant = all(one.is_constant for one in parts)
        return _truth(
            reads,
            lambda values: reduce(join, [run(values) for run in runs]),
            is_constant=is_constant,
        )

    def _computed(self, compute: Any, left: Expression, right: Expression) -> Expression:
        def run(values: Values) -> Any:
            return compute(left.run(values), right.run(values), dtype=np.float64)

        nullable = left.field.nullable or right.field.nullable or compute is np.divide
        made = Field("", DType.FP64, nullable=nullable)
        both = left.is_constant and right.is_constant
        return Expression("", made, (*left.reads, *right.reads), run, is_constant=both)

    def _value(self, node: ast.expr) -> Expression:
        made = self.read(node)
        if made.field.shape:
            raise Invalid(
                f"{made.text} has several values in a row", hint="name one: probabilities['yes']"
            )
        return made

    def _number(self, node: ast.expr) -> Expression:
        made = self._value(node)
        if made.kind != _NUMBERS:
            raise Invalid(f"{ast.unparse(node)} is a {made.kind}, and a number is needed")
        return made

    def _truth(self, node: ast.expr) -> Expression:
        made = self._value(node)
        if made.kind != _TRUTHS:
            raise Invalid(f"{ast.unparse(node)} is a {made.kind}, and a condition is needed")
        return made


def _names(node: ast.expr) -> tuple[str, str]:
    """The part, or nothing, and the column that a reference names."""
    names: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.insert(0, inner.attr)
        inner = inner.value
    match inner:
        case ast.Name(id=name):
            names.insert(0, name)
            return (names[0], ".".join(names[1:])) if len(names) > 1 else ("", name)
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)]):
            if not names and not inner.keywords:
                return "", name
    raise Invalid(f"{ast.unparse(node)!r} is not something that an expression may say")


def _check_same(left: Expression, right: Expression) -> None:
    if left.kind != right.kind:
        raise Invalid(f"{left.text or 'a sum'} is a {left.kind}, and {right.text} a {right.kind}")


def _truth(reads: tuple[Key, ...], run: Run, *, is_constant: bool = False) -> Expression:
    return Expression("", Field("", DType.BOOL), reads, run, is_constant=is_constant)
