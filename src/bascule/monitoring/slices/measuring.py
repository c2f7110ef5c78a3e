"""The story: predictions of the ledger with their truths, or held-out rows, in; slices out."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import Bundle, conform
from bascule.core import Columns, NotFound
from bascule.metrics import Labelled
from bascule.monitoring.performance import Reference, known_at_equal_age, read_ledger
from bascule.monitoring.slices.finding import MAX_PAIRED_COLUMNS, Mask, Sides, find_slices

_FAR = 0.8


def measure_slices(
    bundle: Bundle,
    *,
    home: Path | None = None,
    model: str = "",
    version: str = "",
    against: Bundle | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The slices in which a version is worse, as JSON; see `slice_blocks`.

    With `against`, both versions answer the same rows. Without it, rows of the ledger are compared
    with the held-out rows in the same slice, and held-out rows with those outside of the slice. A
    number is wrong where its error is among the largest fifth of both sides.

    Args:
        bundle: The version.
        home: That of the ledger, with `now`; None for the held-out rows of the bundle.
        model: Its name in the ledger.
        version: Its number there.
        against: The other version.
        since: Predictions before it are left out.
        now: Truths count at equal age then; see `known_at_equal_age`.

    Raises:
        NotFound: There are no rows with truths.
        Invalid: The task is not measured, or the other version does not take these rows.
    """
    reference = Reference(bundle)
    held_out = reference.held_out
    chosen = held_out
    if home is not None and now is not None:
        chosen = _of_ledger(home, reference, (model, version), since, now)
    if chosen is None or not len(chosen[0]) or not chosen[1]:
        raise NotFound(
            f"{bundle.name} has no rows with inputs and truths to slice",
            hint="add outcomes, give a longer --since, or slice the rows packed with test=(X, y)",
        )
    labelled, columns = chosen
    answered, beside = [labelled], "the other rows"
    if against is not None:
        answered.append(_answered(against, columns, labelled))
        beside = "the other version"
    elif home is not None and held_out is not None:
        answered.append(held_out[0])
        beside = "held-out rows"
        columns = {
            name: np.concatenate([values, held_out[1][name]]) for name, values in columns.items()
        }
    wrong, far = _wrong(answered)
    sides = Sides(*wrong)
    if beside == "held-out rows":
        both = np.concatenate(wrong)
        sides = Sides(both, is_other=np.arange(len(both)) >= len(labelled))
    baseline = bundle.baseline
    profiles = None if baseline is None or baseline.inputs is None else baseline.inputs.columns
    slices, tested = find_slices(columns, sides, profiles)
    if len(columns) > MAX_PAIRED_COLUMNS:
        reference.notes.append(f"pairs are formed of the first {MAX_PAIRED_COLUMNS} columns")
    return {
        "beside": beside, "rows": len(labelled), "tested": tested, "notes": reference.notes,
        "wrong": "wrong answers" if far is None else f"errors over {far:.4g}",
        "slices": [
            {
                "where": list(each.conditions), "rows": each.shares.rows,
                "share": each.shares.wrong / each.shares.rows, "p_value": each.p_value,
                "other_share": each.shares.others_wrong / each.shares.others,
                "difference": each.shares.difference, "between": list(each.between),
            }
            for each in slices
        ],
    }  # fmt: skip


def _of_ledger(
    home: Path,
    reference: Reference,
    served: tuple[str, str],
    since: datetime | None,
    now: datetime,
) -> tuple[Labelled, Columns] | None:
    signature = reference.bundle.signature
    found = read_ledger(
        home, served[0], lambda number: reference if number == served[1] else None, since=since,
        columns=signature.columns or [one.name for one in signature.inputs],
    )  # fmt: skip
    if not found:
        return None
    rows = found[0][1]
    is_known, age_s = known_at_equal_age(rows, now)
    reference.notes.append(f"truths count that came within {age_s / 3_600:.3g} h of the prediction")
    places = np.arange(len(rows))
    if rows.sampling is not None:
        places = rows.sampling.uniform(places)
    places = places[is_known[places]]
    columns = {
        name: values[places]
        for name, values in (rows.inputs or rows.columns).items()
        if values.ndim == 1
    }
    return rows.labelled.take(places), columns


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


def _wrong(sides: list[Labelled]) -> tuple[list[Mask], float | None]:
    """Where the answers of each side are wrong; and of numbers, from which error on."""
    if sides[0].task == "classification":
        return [side.answers != side.truth for side in sides], None
    errors = [np.abs(side.answers - side.truth) for side in sides]
    far = float(np.nanquantile(np.concatenate(errors), _FAR))
    return [~(error <= far) for error in errors], far
