"""A report of slices as people see it, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.documents import Block, Bullets, Table, Text


def slice_blocks(report: Mapping[str, Any]) -> tuple[Block, ...]:
    """The slices, how sure they are, and what was not done."""
    wrong, beside = report["wrong"], report["beside"]
    rows = tuple(
        (
            " and ".join(each["where"]), f"{each['rows']:,}", f"{each['share']:.1%}",
            f"{each['other_share']:.1%}", f"{100 * each['difference']:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * end for end in each["between"])),
        )
        for each in report["slices"]
    )  # fmt: skip
    heads = ("slice", "rows", wrong, beside, "points worse", "between")
    of = f"{report['tested']:,} slices of {report['rows']:,} rows"
    found = Table(heads, rows, heads[1:5], f"None of {of} is worse than {beside}.")
    bound = f"Of {of}. The chance that any is false is at most 5 %; all intervals hold at once."
    return (found, *[Text(bound)] * bool(rows), Bullets(tuple(report["notes"])))
