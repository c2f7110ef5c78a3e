"""The story: predictions of the ledger with their truths, or held-out rows, in; slices out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import Bundle, conform
from bascule.core import Columns, NotFound
from bascule.documents import Block, Bullets, Table, Text
from bascule.metrics import Labelled
from bascule.monitoring import Sides, find_slices
from bascule.monitoring.performance import Reference, read_ledger
from bascule.release.fairness import known_at_equal_age

_FAR = 0.8


def measure_slices(
    bundle: Bundle, *, ledger: tuple[Path, str, str] | None = None, against: Bundle | None = None,
    since: datetime | None = None, now: datetime | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The slices in which a version is worse, as JSON; see `slice_blocks`.

    With `against`, both versions answer the same rows. Without it, rows of the ledger are compared
    with the held-out rows in the same slice, and held-out rows with those outside of the slice. A
    number is wrong where its error is among the largest fifth of both sides.

    `ledger` is the home, model and version there, without which the held-out rows are sliced; its
    truths count at equal age (`known_at_equal_age`).

    Raises:
        NotFound: There are no rows with truths.
        Invalid: The task is not measured, or the other version does not take these rows.
    """
    reference = Reference(bundle)
    held_out = reference.held_out
    chosen = held_out if ledger is None else _of_ledger(*ledger, reference, since, now)
    if chosen is None or not len(chosen[0]) or not chosen[1]:
        raise NotFound(
            f"{bundle.name} has no rows with inputs and truths to slice",
            hint="add outcomes, give a longer --since, or slice the rows packed with test=(X, y)",
        )
    labelled, columns = chosen
    beside = "the other rows" if against is None else "the other version"
    answered = [labelled] if against is None else [labelled, _answered(against, columns, labelled)]
    wrong, far = _wrong(answered)
    sides = Sides(*wrong)
    if ledger is not None and against is None and held_out is not None:
        beside = "held-out rows"
        columns = {
            name: np.concatenate([values, held_out[1][name]]) for name, values in columns.items()
        }
        wrong, far = _wrong([labelled, held_out[0]])
        sides = Sides(both := np.concatenate(wrong), None, np.arange(len(both)) >= len(labelled))
    baseline = bundle.baseline
    profiles = None if baseline is None or baseline.inputs is None else baseline.inputs.columns
    slices, tested = find_slices(columns, sides, profiles)
    return {
        "beside": beside, "rows": len(labelled), "tested": tested, "notes": reference.notes,
        "wrong": "wrong answers" if far is None else f"errors over {far:.4g}",
        "slices": slices,
    }  # fmt: skip


def _of_ledger(
    home: Path, model: str, version: str, reference: Reference,
    since: datetime | None, now: datetime | None,
) -> tuple[Labelled, Columns] | None:  # fmt: skip
    signature = reference.bundle.signature
    found = read_ledger(
        home, model, lambda number: reference if number == version else None, since=since,
        columns=signature.columns or [field.name for field in signature.inputs],
    )  # fmt: skip
    if not found:
        return None
    rows = found[0][1]
    is_known, age_s = known_at_equal_age(rows, now or datetime.now(UTC))
    reference.notes.append(f"truths count that came within {age_s / 3_600:.3g} h of the prediction")
    places = np.arange(len(rows))
    places = places if rows.sampling is None else rows.sampling.uniform(places)
    places = places[is_known[places]]
    columns = (rows.inputs or rows.columns).items()
    return rows.labelled.take(places), {n: v[places] for n, v in columns if v.ndim == 1}


def _answered(against: Bundle, columns: Columns, labelled: Labelled) -> Labelled:
    """What another version answers to the same rows."""
    signature, truth = against.signature, labelled.truth
    asked: Any = columns
    if signature.is_matrix and not signature.columns:
        asked = np.column_stack(list(columns.values()))
    if labelled.classes is not None:
        truth = np.array([*labelled.classes, None], object)[truth]
    answers = dict(against.predict(conform(asked, signature)))
    return Reference(against).labelled(truth, answers)


def _wrong(sides: list[Labelled]) -> tuple[list[Any], float | None]:
    """Where the answers of each side are wrong; and of numbers, from which error on."""
    if sides[0].task == "classification":
        return [side.answers != side.truth for side in sides], None
    errors = [np.abs(side.answers - side.truth) for side in sides]
    far = float(np.nanquantile(np.concatenate(errors), _FAR))
    return [~(error <= far) for error in errors], far


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
