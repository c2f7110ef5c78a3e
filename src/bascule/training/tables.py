"""A table for a search of models: what is odd about its columns, and which rows judge the models.

The rows are cut in three. The search has the first part; the second chooses among its models; the
third, which nothing has seen, judges the chosen one, so that its figure is not the best of many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from bascule.core import Invalid

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_CUTS = (0.8, 0.9)
_FEWEST_ROWS, _MOST_CLASSES = 100, 20
_TELLS = 0.98  # of ROC AUC or R2


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is searched.

    Attributes:
        table: A file, a folder, a glob or a bucket; `target` is a column, `model` a name to give.
        metric: What is best; empty: `roc_auc` of two classes, `accuracy` of more, else `rmse`.
        budget_s: For all of it.
        limits: Criteria. Those of cost are asked of each candidate, the others of the chosen one.
        time: The column by which the newest rows are held out; `leave_out` are no inputs.
        group: The column of which equal values stay in one part of the rows.
        deploy: The endpoint that gets the chosen model; empty: none does.
        engine: What searches: `flaml` or `optuna`.
    """

    table: str
    target: str
    model: str = ""
    metric: str = ""
    budget_s: Annotated[float, msgspec.Meta(ge=10)] = 600.0
    limits: tuple[str, ...] = ()
    time: str = ""
    group: str = ""
    leave_out: tuple[str, ...] = ()
    deploy: str = ""
    engine: str = "flaml"


@dataclass(frozen=True, slots=True)
class Examined:
    """A table, ready to be searched.

    Attributes:
        parts: The rows of the search, of the choice among its models, and of the last judgement.
        inputs: The columns that models take.
        classes: Of the target; 0 where it is a number.
        findings: A sentence for each thing that is odd, and for how the rows were cut.
    """

    parts: Sequence[pd.DataFrame]
    inputs: Sequence[str]
    target: str
    classes: int
    findings: Sequence[str]

    def split(self, part: int) -> tuple[pd.DataFrame, pd.Series[Any]]:
        """The inputs and the truth of a part."""
        return self.parts[part][list(self.inputs)], self.parts[part][self.target]


def examined(plan: Plan, table: pa.Table, *, is_number: bool | None) -> Examined:
    """Look at the columns of a table, and cut its rows; those without a target are left out.

    Whether the target is a number is decided where it is None: floats are, and more than 20
    whole numbers. Raises `Invalid` where columns, rows, times, groups or classes are too few.
    """
    import pyarrow.compute as pc

    special = [name for name in (plan.target, plan.time, plan.group) if name]
    if missing := {*special, *plan.leave_out}.difference(table.column_names):
        columns = ", ".join(table.column_names[:20])
        raise Invalid(f"no column {', '.join(missing)}", hint=f"columns are {columns}")
    if len({*special}) < len(special):
        raise Invalid(f"{plan.target} is the target", hint="name other columns as time and group")
    known = _plain(table.filter(pc.is_valid(table[plan.target])))
    if len(known) < _FEWEST_ROWS:
        raise Invalid(f"{len(known)} rows with a target are too few", hint="bring 100 or more")
    others = [name for name in known.column_names if name not in (*special, *plan.leave_out)]
    looks = {name: _look(name, known[name]) for name in others}
    findings = [sentence for _, sentence in looks.values() if sentence]
    inputs = [name for name, (is_input, _) in looks.items() if is_input]
    if not inputs:
        raise Invalid("no column is left to predict from", hint="; ".join(findings))
    frame = known.select([*special, *inputs]).to_pandas()
    distinct, kind = frame[plan.target].nunique(), frame[plan.target].dtype.kind
    if is_number is None:
        is_number = kind == "f" or (kind in "iu" and distinct > _MOST_CLASSES)
    if is_number and kind not in "iuf":
        raise Invalid(f"{plan.target} is no number", hint="use a metric of classes: accuracy")
    if is_number and not np.isfinite(frame[plan.target].to_numpy(float)).all():
        raise Invalid(f"{plan.target} has infinite values", hint="leave these rows out")
    parts = _cut(plan, frame, is_number=is_number)
    findings += _suspicions(parts, inputs, plan.target, is_number=is_number)
    how = f"the newest by {plan.time}" if plan.time else f"groups of {plan.group}"
    sizes = "{:,} rows to search on, {:,} to choose by, {:,} to judge by: ".format(*map(len, parts))
    findings.append(sizes + (how if plan.time or plan.group else "by chance"))
    return Examined(parts, inputs, plan.target, 0 if is_number else distinct, findings)


def _plain(table: pa.Table) -> pa.Table:
    """Flags as 0 and 1, categories as their values."""
    import pyarrow as pa

    def plain(kind: Any) -> Any:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.int64() if pa.types.is_boolean(kind) else kind

    return table.cast(pa.schema([(field.name, plain(field.type)) for field in table.schema]))


def _look(name: str, column: pa.ChunkedArray) -> tuple[bool, str]:
    """Whether a column is an input, and what is odd about it."""
    from pyarrow import compute as pc, types

    is_text = types.is_string(column.type) or types.is_large_string(column.type)
    is_whole = types.is_integer(column.type)
    if types.is_temporal(column.type):
        return False, f"{name} is a time, and no input: --time {name} holds the newest rows out"
    if not (is_text or is_whole or types.is_floating(column.type)):
        return False, f"{name} is neither a number nor a text, and no input"
    distinct, rows = pc.count_distinct(column).as_py(), len(column) - column.null_count
    if distinct < 2:
        return False, f"{name} has one value, and is no input"
    if (is_text and distinct > rows / 2) or (is_whole and distinct == rows):
        return False, f"{name} looks like an id, {distinct:,} values in {rows:,} rows: no input"
    if types.is_floating(column.type) and pc.any(pc.is_inf(column)).as_py():
        return False, f"{name} has infinite values, and is no input"
    grows = is_whole and pc.all(pc.less_equal(column[:-1], column[1:])).as_py()
    if grows and distinct > _MOST_CLASSES:
        return True, f"{name} grows from row to row: if it is a time, give --time {name}"
    if name.lower().endswith("id"):
        return True, f"{name} is named like an id: --group {name} keeps rows of one together"
    return True, ""


def _cut(plan: Plan, frame: pd.DataFrame, *, is_number: bool) -> list[pd.DataFrame]:
    """Cut the rows in their order: of time, of groups by chance, or by chance.

    Rows of equal time or group are in one part. By chance, each class has its share of each part.
    """
    import pandas as pd

    draws = np.random.default_rng(0)
    places = draws.random(len(frame))
    if column := plan.time or plan.group:
        places, distinct = pd.factorize(frame[column], sort=True)
        places = places if plan.time else draws.permutation(len(distinct) + 1)[places]
    elif not is_number:
        places = pd.Series(places).groupby(frame[plan.target]).rank(pct=True).to_numpy()
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    cuts = [np.searchsorted(ordered, ordered[round(len(frame) * cut)]) for cut in _CUTS]
    if not 0 < cuts[0] < cuts[1]:
        raise Invalid(f"{column} has too few values to cut rows by", hint="leave out the option")
    return [frame.iloc[rows] for rows in np.split(order, cuts)]


def _suspicions(
    parts: Sequence[pd.DataFrame], inputs: Sequence[str], target: str, *, is_number: bool
) -> Iterator[str]:
    """Columns that tell the target, and held-out rows that the search knows."""
    import pandas as pd

    from bascule.release import single_scores

    columns = {name: parts[0][name].to_numpy() for name in inputs}
    try:
        scores = single_scores(columns, parts[0][target].to_numpy(), numbers=is_number)
    except ValueError as problem:
        raise Invalid(f"{target}: {problem}", hint="bring more rows of each class") from None
    measure = "R2" if is_number else "ROC AUC"
    for name, score in scores.items():
        if score >= _TELLS:
            telling = f"{name} alone tells {target}, {measure} {score:.3f}"
            yield f"{telling}: --leave-out {name} if it is known only afterwards"
    search, *held_out = (pd.util.hash_pandas_object(part[inputs], index=False) for part in parts)
    rows = pd.concat(held_out)
    if count := int(rows.isin(set(search)).sum()):
        equal = f"{count:,} of {len(rows):,} held-out rows have the inputs of a row of the search"
        yield f"{equal}: quality may look better than it is"
