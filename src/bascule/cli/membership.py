"""The command that audits the privacy of a training."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath, Target
from bascule.cli.screen import print_json, say


def audit(
    bundle: RefOrPath,
    members: Annotated[Path, typer.Option(help="Rows that it was trained on, with their truth.")],
    others: Annotated[
        Path, typer.Option(help="Rows from the same source that it was not trained on.")
    ],
    target: Target = None,
    delta: Annotated[
        float | None, typer.Option(help="Default: that of the claim, or 1e-5.", show_default=False)
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bound.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the draw of rows.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Attack a model to see which rows it was trained on: a lower bound on its epsilon."""
    from bascule.batch import read_rows, split_truth
    from bascule.bundle import load
    from bascule.bundle.statements import MEMBERSHIP_KIND
    from bascule.release import audit_membership

    version, path = context.find(bundle)
    loaded = load(path)
    pairs = [
        split_truth(read_rows(table, f"{option} table"), target, option, required=True)
        for option, table in (("--members", members), ("--others", others))
    ]
    result = audit_membership(loaded, *pairs, delta=delta, confidence=confidence, seed=seed)
    statement, now, by = (MEMBERSHIP_KIND, result.to_json()), datetime.now(UTC), context.user()
    if version is None:
        loaded.add_statement(*statement, at=now, by=by)
    else:
        context.local_registry("privacy audit").add_statement(version, *statement, at=now, by=by)
    if as_json:
        print_json(result.to_json())
        return
    say(
        f"epsilon is at least {result.epsilon_bound:.3g} at delta {result.delta:g} "
        f"({result.confidence:.0%} sure, {result.rows} rows)"
    )
