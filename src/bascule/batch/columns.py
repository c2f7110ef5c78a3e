"""Which columns of a source a job reads, and which conditions on its rows are allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from bascule.batch.checks import parse
from bascule.batch.jobs import Job
from bascule.core import Invalid, Signature, first_line

_WHERE_HINT = "write a condition on the columns of one row: --where 'delay > 5'"
_NOT_OF_A_ROW = {"SUBQUERY": "a query", "WINDOW": "a window", "PARAMETER": "a parameter"}


def columns_read(job: Job, signature: Signature, names: Sequence[str]) -> list[str]:
    """The columns that the model, the sink, the checks and the key need, in the source's order.

    All of them where one is absent, so that the error can list what is there.
    """
    if job.keep is None:
        return list(names)
    inputs = list(signature.columns) if signature.is_matrix else [o.name for o in signature.inputs]
    if not inputs:  # a matrix without names takes every column that is not left out
        inputs = [name for name in names if name not in job.ignore]
    checked = {parse(text).column for text in (*job.checks, *job.warnings)}
    needed = {*inputs, *job.keep, *(checked & {*names}), *({job.key} & {*names})}
    # At least one: a batch without columns has no number of rows.
    return [name for name in names if name in needed or not needed <= {*names}] or list(names[:1])


def columns_of_condition(where: str, names: Sequence[str]) -> list[str]:
    """The columns that a condition in DuckDB's SQL is about, of those that there are.

    Raises:
        Invalid: It is no SQL; or it is no condition on a row: each batch of a file would answer it
            otherwise.
    """
    parts = list(_parts(_parsed(where)))
    for part in parts:
        what = _NOT_OF_A_ROW.get(part["class"])
        if part.get("function_name") in _volatile():
            what = f"{part['function_name']}(), which differs each time"
        if what is not None:
            raise Invalid(f"--where {where!r} has {what}", hint=_WHERE_HINT, field="where")
    if any(part["class"] == "STAR" for part in parts):
        return list(names)
    found = {name.lower() for part in parts for name in part.get("column_names", ())}
    return [name for name in names if name.lower() in found]


def _parsed(where: str) -> Any:
    import duckdb

    # In brackets no LIMIT can follow; without them, no bracket can close what it has not opened.
    for condition in (where, f"({where}\n)"):
        query = f"SELECT 1 FROM rows_to_score WHERE {condition}"
        with duckdb.connect(config={"threads": 1, "enable_external_access": False}) as connection:
            found: Any = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query])
            tree = json.loads(found.fetchone()[0])
        if tree["error"] or len(tree["statements"]) > 1:
            said = first_line(tree.get("error_message", "it is several statements"))
            raise Invalid(f"--where {where!r}: {said}", hint=_WHERE_HINT, field="where")
    return tree["statements"][0]["node"]["where_clause"]


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Each expression of a tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    for one in tree if isinstance(tree, list) else ():
        yield from _parts(one)


@cache
def _volatile() -> frozenset[str]:
    import duckdb

    query = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'"
    with duckdb.connect(config={"threads": 1}) as connection:
        return frozenset(name for (name,) in connection.execute(query).fetchall())
