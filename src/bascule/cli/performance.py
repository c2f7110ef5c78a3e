"""`bascule performance`: predictions against the truths that came later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Ref, RefOrPath
from bascule.cli.jobs import result_of
from bascule.cli.monitoring import effects_of, production, say_report
from bascule.cli.screen import print_blocks, print_json
from bascule.core import seconds_of

if TYPE_CHECKING:
    from bascule.monitoring import PerformanceReport


def performance(
    model: RefOrPath,
    since: Annotated[str, typer.Option(help="How far back the ledger is read: 24h, 7d.")] = "30d",
    by: Annotated[
        str, typer.Option(help="The windows, in UTC: hour, day, week, 6h, 7d, or all as one.")
    ] = "day",
    slice_by: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            help="A column: each category, or fifth of a number, is measured by itself; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure; may be repeated. Default: accuracy, auc and log_loss, or mae, "
            "rmse and r2.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(help="False alarms a year that are acceptable, over all metrics.")
    ] = 4.0,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            help="The least worsening of a metric that matters: accuracy=0.05, or relative for an "
            "error: rmse=0.2; may be repeated. Default: 0.02, and 0.1 for errors.",
            show_default=False,
        ),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(help="A table instead of the ledger (.parquet .csv .jsonl .feather)."),
    ] = None,
    truth_column: Annotated[str, typer.Option(help="Of --current: the truths.")] = "",
    prediction_column: Annotated[
        str, typer.Option(help="Of --current: the predictions. Default: the bundle answers.")
    ] = "",
    probability_column: Annotated[
        str, typer.Option(help="Of --current: the probability of the second of two classes.")
    ] = "",
    time_column: Annotated[
        str, typer.Option(help="Of --current: when each row was predicted.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Measure predictions against their truths; exit code 1 on an alarm."""
    from bascule.core import Invalid

    common: dict[str, object] = {
        "by": by, "metrics": metric or (), "slice_by": slice_by or (), "budget": budget,
        "effects": _effects(effect or []),
    }  # fmt: skip
    columns = {
        "truth_column": truth_column, "prediction_column": prediction_column,
        "probability_column": probability_column, "time_column": time_column,
    }  # fmt: skip
    if current is not None:
        report = _of_table(model, current, {**common, **columns})
    else:
        named = next((name for name, value in columns.items() if value), "")
        if named:
            raise Invalid(
                f"--{named.replace('_', '-')} names a column of a table, and there is none",
                hint="give the table with --current, or leave the option out",
            )
        report = _of_ledger(model, seconds_of(since, "--since"), common)
    say_report(report, as_json=as_json)


def _of_table(model: str, current: Path, options: dict[str, object]) -> PerformanceReport:
    from bascule.batch import read_rows
    from bascule.bundle import load
    from bascule.core import Invalid
    from bascule.monitoring import measure_performance

    if not options["truth_column"]:
        raise Invalid(
            "--current: which of its columns holds the truth?", hint="name it with --truth-column"
        )
    rows = read_rows(current, "--current")
    _, path = context.find(model)
    return measure_performance(rows, load(path), **options)  # type: ignore[arg-type]


def _of_ledger(model: str, since_s: float, options: dict[str, object]) -> PerformanceReport:
    from bascule.documents import progress_line
    from bascule.monitoring import measure_performance

    home, name, bundle_of = production(model)
    since = datetime.now(UTC) - timedelta(seconds=since_s)
    with progress_line("performance"):
        return measure_performance(home, name, bundle_of=bundle_of, since=since, **options)  # type: ignore[arg-type]


def _effects(written: list[str]) -> dict[str, float]:
    from bascule.metrics import metric_of

    effects = effects_of(written, "METRIC", "accuracy=0.05")
    return {metric_of(name).name: least for name, least in effects.items()}


def slices(
    model: Ref,
    against: Annotated[
        str, typer.Option(help="A version that answers the same rows: late/3, late@champion.")
    ] = "",
    since: Annotated[str, typer.Option(help="How far back the ledger is read: 24h, 7d.")] = "30d",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Of the held-out rows in place of the ledger.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find slices of rows in which a version is worse; exit code 1 if there is one."""
    from bascule.release import slice_blocks

    asked = {"model": model, "against": against, "held_out": held_out}
    asked |= {"since_s": seconds_of(since, "--since")}
    report = result_of("slices", asked, as_json=as_json)
    if as_json:
        print_json(report)
    else:
        print_blocks(*slice_blocks(report))
    if report["slices"]:
        raise typer.Exit(1)
