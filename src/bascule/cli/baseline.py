"""How the baseline of a bundle is shown: a line per column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bascule.documents import Block, Table, Text

if TYPE_CHECKING:
    from bascule.bundle.statements import Baseline
    from bascule.stats import ColumnProfile, Profile

_SHOWN_COLUMNS = 30
_SHOWN_VALUES = 3
_SHOWN_LETTERS = 24


def baseline_blocks(baseline: Baseline | None) -> Iterator[Block]:
    """What the training rows and the answers looked like, as far as it is known."""
    if baseline is None:
        return
    for what, profile in (
        ("training rows", baseline.inputs),
        ("answers to held-out rows", baseline.answers),
    ):
        if profile is not None:
            yield from _profile(what, profile)


def _profile(what: str, profile: Profile) -> Iterator[Block]:
    yield Text(f"baseline of {profile.rows:,} {what}")
    rows = tuple(
        (name, *column_row(column))
        for name, column in list(profile.columns.items())[:_SHOWN_COLUMNS]
    )
    headings = ("column", "missing", "distinct", "least", "median", "most", "mean", "most frequent")
    yield Table(headings, rows, headings[1:7])
    if len(profile.columns) > _SHOWN_COLUMNS:
        yield Text(f"... and {len(profile.columns) - _SHOWN_COLUMNS} more columns")


def column_row(column: ColumnProfile) -> tuple[str, ...]:
    """The cells of one column, without its name."""
    missing = f"{column.missing / column.rows:.1%}" if column.missing else "-"
    about = "" if column.is_distinct_exact else "~"
    distinct = f"{about}{column.distinct:,}"
    numbers = ["-"] * 4
    if column.quantiles.rows:
        moments = column.moments
        values = (moments.least, column.quantiles.quantile(0.5), moments.most, moments.mean)
        numbers = ["-" if value is None else f"{value:.4g}" for value in values]
    frequent = "-"
    if not column.frequent.error or column.kind == "text":
        shown = [_shown(value) for value, _ in column.frequent.top()[:_SHOWN_VALUES]]
        frequent = ", ".join(shown) or "-"
    return missing, distinct, *numbers, frequent


def _shown(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if len(value) <= _SHOWN_LETTERS else value[: _SHOWN_LETTERS - 3] + "..."
