"""`bascule fairness`: rates by group, and how far they lie apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.building import attributes_table, read_test
from bascule.cli.context import AsJson, AttributeId, Attributes, RefOrPath, Target, Test, Train
from bascule.cli.screen import note, print_blocks, print_json, say
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.bundle import Bundle


def fairness(
    model: RefOrPath,
    attribute: Annotated[
        list[str],
        typer.Option(help="Rows are grouped by it: sex, or sex*race crossed; may be repeated."),
    ],
    from_ledger: Annotated[
        bool, typer.Option("--from-ledger", help="Of the answers in the ledger, and their truths.")
    ] = False,
    since: Annotated[str, typer.Option(help="How far back the ledger is read: 24h, 7d.")] = "30d",
    test: Test = None,
    target: Target = None,
    attributes: Attributes = None,
    id_column: AttributeId = None,
    positive: Annotated[
        str | None,
        typer.Option(help="The class that is selected. Default: 1, or the second of two."),
    ] = None,
    mitigate: Annotated[
        str | None,
        typer.Option(
            help="reweigh: train again on the rows of --train, weighed, and pack it; threshold: "
            "give each group a threshold that suits these rows."
        ),
    ] = None,
    train: Train = None,
    to: Annotated[Path | None, typer.Option(help="Of --mitigate: the bundle to make.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show rates by group of protected attributes, with intervals and differences."""
    from bascule.bundle import fairness_blocks
    from bascule.release import METHODS

    if not context.is_path(model):
        context.local_registry("fairness")
    options: dict[str, Any] = {"positive": positive}
    if mitigate is not None:
        if mitigate not in METHODS or train is None or to is None or len(attribute) > 1:
            raise Invalid(
                f"--mitigate {mitigate} needs more than was named",
                hint=f"--mitigate {' or '.join(METHODS)}, with --train FILE --target COLUMN "
                "--to FOLDER, and one --attribute",
            )
        fairer = _mitigated(model, attribute[0], mitigate, train, target, to, positive)
        bodies = {"": fairer.statements("fairness")[-1].body}
        note(f"packed {fairer.path}")
    elif from_ledger:
        table = None if attributes is None else attributes_table(attributes, id_column)
        bodies = _of_ledger(model, attribute, table, id_column, since, options)
    else:
        rows, joined = read_test(test, target, attributes, id_column)
        options |= {"test": rows, "joined": joined}
        bodies = {"": _of_rows(model, attribute, options)}
    if as_json:
        print_json(bodies if from_ledger else bodies[""])
    for version, body in bodies.items() if not as_json else ():
        if version:
            say(f"version {version}")
        print_blocks(*fairness_blocks(body))


def _of_ledger(
    model: str, names: list[str], table: Any, column: str | None, since: str, options: Any
) -> dict[str, Any]:
    """By version, recorded in the registry."""
    from bascule.cli.monitoring import production
    from bascule.release import PRODUCTION_KIND, join_attributes, production_fairness

    now = datetime.now(UTC)
    bodies = production_fairness(
        *production(model), names,
        join=None if table is None else lambda ids: join_attributes(ids, table, column or ""),
        since=now - timedelta(seconds=seconds_of(since, "--since")), now=now, **options,
    )  # fmt: skip
    if not context.is_path(model):
        record = context.local_registry("fairness").add_statement
        for body in bodies.values():
            record(body["digest"], PRODUCTION_KIND, body, at=now, by=context.user())
    return bodies


def _of_rows(model: str, names: list[str], options: Any) -> dict[str, Any]:
    """Measured, and recorded where the bundle is kept."""
    from bascule.bundle import load
    from bascule.release import FAIRNESS_KIND, held_out_fairness

    version, path = context.find(model)
    bundle = load(path)
    body = held_out_fairness(bundle, names, **options)
    context.record("fairness", bundle, version, FAIRNESS_KIND, body)
    return body


def _mitigated(
    model: str, name: str, method: str, train: Path, target: list[str] | None, to: Path,
    positive: str | None,
) -> Bundle:  # fmt: skip
    from bascule.batch import read_rows, split_truth
    from bascule.bundle import load
    from bascule.release import mitigated

    rows = read_rows(train, "--train table")
    table, truth = split_truth(rows, target, f"--train table {train.name}", required=True)
    return mitigated(
        load(context.find(model)[1]), table, truth, name,
        method=method, positive=positive, to=to, now=datetime.now(UTC), by=context.user(),
    )  # fmt: skip
