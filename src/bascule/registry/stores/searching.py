"""The terms of a search as conditions of SQL. Nothing is read that does not match."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from bascule.registry.search import Term
from bascule.registry.stores import schema

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}


def condition_of(terms: Sequence[Term]) -> sa.ColumnElement[bool]:
    """What a row of `versions` must meet; retired ones only where a term speaks of them."""
    conditions = [_CONDITIONS[term.field](term) for term in terms]
    if all(term.field != "retired" for term in terms):
        conditions.append(schema.versions.c.retired_at.is_(None))
    return sa.and_(sa.true(), *conditions)


def _metric(term: Term) -> sa.ColumnElement[bool]:
    table = schema.metrics
    found = sa.and_(table.c.digest == schema.versions.c.digest, table.c.name == term.key)
    if term.sign != "has":
        found = sa.and_(found, _OPERATORS[term.sign](table.c.value, term.value))
    return sa.exists().where(found).correlate(schema.versions)


def _tag(term: Term) -> sa.ColumnElement[bool]:
    table = schema.tags
    found = sa.and_(
        table.c.model == schema.versions.c.model,
        table.c.number == schema.versions.c.number,
        table.c.key == term.key,
    )
    if term.sign == "has":
        return sa.exists().where(found).correlate(schema.versions)
    same = sa.exists().where(found, table.c.value == term.value).correlate(schema.versions)
    return same if term.sign == "=" else ~same


def _alias(term: Term) -> sa.ColumnElement[bool]:
    table = schema.aliases
    return (
        sa.exists()
        .where(
            table.c.model == schema.versions.c.model,
            table.c.number == schema.versions.c.number,
            table.c.alias == term.value,
        )
        .correlate(schema.versions)
    )


def _gates(term: Term) -> sa.ColumnElement[bool]:
    table = schema.statements
    latest = (
        sa.select(table.c.passed)
        .where(table.c.digest == schema.versions.c.digest, schema.counting_checks())
        .order_by(table.c.id.desc())
        .limit(1)
        .correlate(schema.versions)
        .scalar_subquery()
    )
    found = {
        "passed": latest.is_(sa.true()),
        "failed": latest.is_(sa.false()),
        "unchecked": latest.is_(None),
    }[str(term.value)]
    return found if term.sign == "=" else ~found


def _retired(term: Term) -> sa.ColumnElement[bool]:
    column = schema.versions.c.retired_at
    return {"yes": column.is_not(None), "no": column.is_(None), "any": sa.true()}[str(term.value)]


def _column(name: str) -> Callable[[Term], sa.ColumnElement[bool]]:
    def compare(term: Term) -> sa.ColumnElement[bool]:
        found: sa.ColumnElement[bool] = _OPERATORS[term.sign](schema.versions.c[name], term.value)
        return found

    return compare


def _digest(term: Term) -> sa.ColumnElement[bool]:
    return schema.versions.c.digest.startswith(f"sha256:{term.value}", autoescape=True)


_CONDITIONS: dict[str, Callable[[Term], sa.ColumnElement[bool]]] = {
    "metric": _metric,
    "tag": _tag,
    "alias": _alias,
    "gates": _gates,
    "retired": _retired,
    "digest": _digest,
    "model": _column("model"),
    "by": _column("pushed_by"),
    "pushed": _column("pushed_at"),
}
