"""The golden check: answers that were recorded before publication, given again by this device.

They are a statement beside the bundle, which the repository signs with it. A processor that
computes otherwise, a runtime of another release or a damaged file shows here, before any caller.
`python -m bascule.edge.golden` proves what was fetched in a process of its own: a model that
crashes its runtime ends that one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bascule.bundle import for_program, load, open_program, read_manifest, take
from bascule.bundle.disk import (
    EXAMPLE,
    PASSPORT,
    Statement,
    check_claims,
    columns_of,
    digest_of,
    parse,
    read_file,
    read_statements,
    shaped,
    write_statement,
)
from bascule.bundle.statements import USUAL, row_differences
from bascule.core import Columns, Refused, Untrusted, answer_parent, canonical_json
from bascule.edge.slots import Home

GOLDEN = "golden"
_MAX_ROWS = 256


class _Body(TypedDict):
    """Rows in the form of requests, and what the program that serves answered them."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def device_statements(path: str | Path, *, by: str) -> bytes:
    """What a repository delivers with a bundle: its passports, and its recorded answers.

    Where there are none they are made now, of the program that serves: to 256 held-out rows or else
    the example, without infinite numbers, which JSON has no word for.
    """
    statements = [
        statement for statement in read_statements(path) if statement.kind in (GOLDEN, PASSPORT)
    ]
    if all(statement.kind != GOLDEN for statement in statements):
        now, digest = datetime.now(UTC).isoformat(), digest_of(path)
        statements.append(Statement(GOLDEN, digest, now, by, _recorded(path)))
    return canonical_json([statement.to_json() for statement in statements])


def lay_statements(folder: str | Path, content: bytes) -> None:
    """Put what was delivered beside the bundle; raises `Untrusted` where it is none of these."""
    statements = parse(content, GOLDEN, what="statements")
    for statement in shaped(statements, list[Statement], GOLDEN, what="statements"):
        if statement.subject != digest_of(folder):
            raise Untrusted(f"a statement of {statement.subject} was delivered with another bundle")
        at = datetime.fromisoformat(statement.at)
        write_statement(folder, statement.kind, statement.body, at=at, by=statement.by)


def _recorded(path: str | Path) -> _Body:
    bundle = load(path)
    manifest, held_out = bundle.manifest, bundle.test_data()
    if held_out is None:
        rows = columns_of(read_file(path, manifest, EXAMPLE), manifest.signature.inputs)
    else:
        rows = take(held_out[0], slice(_MAX_ROWS))
    program = open_program(path, manifest, name=manifest.serves)
    answers = program.run(for_program(rows, program.inputs))
    finite = np.logical_and.reduce([_is_finite(values) for values in (rows | answers).values()])
    return _Body(inputs=_tensors(take(rows, finite)), outputs=_tensors(take(answers, finite)))


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
    statements = bundle.statements(GOLDEN)
    if not statements:
        raise Untrusted("the bundle has no recorded answers", hint="publish it again")
    body = shaped(statements[-1].body, _Body, GOLDEN, what="recorded answers")
    rows = columns_of(canonical_json({"inputs": body["inputs"]}), bundle.signature.inputs)
    expected = columns_of(canonical_json({"inputs": body["outputs"]}), bundle.signature.outputs)
    name, program = bundle.open_for(1)
    answers = program.run(for_program(rows, program.inputs))
    entry = bundle.manifest.program(name)
    tolerance = USUAL if entry is None else max(entry.tolerance, USUAL)
    distance, labels, close = row_differences(expected, answers, tolerance, 0, None)
    largest, others = float(distance.max(initial=0.0)), int((labels & ~close).sum())
    if largest > tolerance or others:
        raise Refused(
            f"golden check: {others} of {len(labels)} labels differ, and numbers by up to "
            f"{largest:.3g}, where {tolerance:.3g} is allowed"
        )
    return {"program": name, "rows": len(labels), "largest_difference": largest}


def prove(question: Mapping[str, Any]) -> dict[str, Any]:
    """Verify what was fetched, its passport's claims and its recorded answers: it gets its slot.

    A clock that is behind the signatures is not believed.
    """
    home, digest = Home(question["home"]), question["digest"]
    folder = home.incoming(digest)
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise Untrusted(f"the bundle is {manifest.digest}, and {digest} was to come")
    passports = read_statements(folder, PASSPORT)
    now = max([datetime.now(UTC), *(datetime.fromisoformat(passport.at) for passport in passports)])
    keys = [Path(key) for key in question["keys"]]
    check_claims(passports, digest, keys, question["claims"], about=manifest.name, now=now)
    checked = check_golden(folder)
    home.fill_slot(digest)
    return checked


def _is_finite(values: Any) -> Any:
    """By row."""
    infinite = np.isinf(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    return ~infinite.reshape(len(values), -1).any(axis=1)


def _tensors(columns: Columns) -> list[dict[str, Any]]:
    return [
        {
            "name": name, "shape": list(values.shape),
            "data": [None if value != value else value for value in values.ravel().tolist()],
        }
        for name, values in columns.items()
    ]  # fmt: skip


if __name__ == "__main__":
    answer_parent(prove)
