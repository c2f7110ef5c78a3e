"""The golden check: answers that were recorded before publication, given again by this device.

They are a statement beside the bundle, which the repository signs with it. A processor that
computes otherwise, a runtime of another release or a damaged file shows here, before any caller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bascule.bundle import for_program, load, open_program, take
from bascule.bundle.disk import EXAMPLE, Manifest, Statement, columns_of, read_file, shaped
from bascule.bundle.statements import USUAL, row_differences
from bascule.core import Columns, Refused, Untrusted, canonical_json

GOLDEN = "golden"
_MAX_ROWS = 256


class GoldenBody(TypedDict):
    """Rows in the form of requests, and what `program` answered them."""

    program: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def record_golden(path: str | Path, *, by: str) -> Statement:
    """Record the answers of the program that serves, to 256 held-out rows or else the example.

    Rows and answers without infinite numbers, which JSON has no word for.
    """
    bundle = load(path)
    manifest, signature = bundle.manifest, bundle.signature
    held_out = bundle.test_data()
    if held_out is None:
        rows = columns_of(read_file(path, manifest, EXAMPLE), signature.inputs)
    else:
        rows = take(held_out[0], slice(_MAX_ROWS))
    program = open_program(path, manifest, name=manifest.serves)
    outputs = program.run(for_program(rows, program.inputs))
    finite = np.logical_and.reduce([_is_finite(values) for values in (rows | outputs).values()])
    body = GoldenBody(
        program=manifest.serves,
        inputs=_tensors(take(rows, finite)),
        outputs=_tensors(take(outputs, finite)),
    )
    return bundle.add_statement(GOLDEN, body, by=by)


def check_golden(path: str | Path) -> dict[str, Any]:
    """Compare the answers of the program that serves on this machine with the recorded ones.

    Returns:
        `program`, `rows`, and `largest_difference`, which is as `parity` measures it.

    Raises:
        Refused: An answer is further away than the program's own tolerance, or a label differs
            where no rounding decides it.
        Untrusted: Nothing was recorded, or it cannot be read.
    """
    bundle = load(path)
    manifest = bundle.manifest
    statements = bundle.statements(GOLDEN)
    if not statements:
        raise Untrusted("the bundle has no recorded answers", hint="publish it again")
    body = shaped(statements[-1].body, GoldenBody, GOLDEN, what="recorded answers")
    rows = _columns(body["inputs"], manifest.signature.inputs)
    expected = _columns(body["outputs"], manifest.signature.outputs)
    name, program = bundle.open_for(1)
    answers = program.run(for_program(rows, program.inputs))
    tolerance = _tolerance(manifest, name)
    distance, labels, close = row_differences(expected, answers, tolerance, 0, None)
    largest = float(distance.max(initial=0.0))
    other = int((labels & ~close).sum())
    if largest > tolerance or other:
        raise Refused(
            f"golden check: {other} of {len(labels)} labels differ, and numbers by up to "
            f"{largest:.3g}, where {tolerance:.3g} is allowed",
            largest_difference=largest, labels=other,
        )  # fmt: skip
    return {"program": name, "rows": len(labels), "largest_difference": largest}


def _tolerance(manifest: Manifest, name: str) -> float:
    entry = manifest.program(name)
    return USUAL if entry is None else max(entry.tolerance, USUAL)


def _is_finite(values: Any) -> Any:
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    return ~np.isinf(values).reshape(len(values), -1).any(axis=1)


def _tensors(columns: Columns) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(values.shape), "data": [_json(v) for v in values.ravel()]}
        for name, values in columns.items()
    ]


def _json(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if plain != plain else plain


def _columns(tensors: list[dict[str, Any]], fields: Any) -> Columns:
    return columns_of(canonical_json({"inputs": tensors}), fields)
