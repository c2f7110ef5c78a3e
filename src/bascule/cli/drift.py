"""The commands that compare what a model is asked with its baseline: drift."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath
from bascule.cli.monitoring import effects_of, production, say_report
from bascule.core import length_of
from bascule.documents import console

if TYPE_CHECKING:
    from bascule.monitoring import DriftReport, Effect, ProductionDrift

_QUIET_S = 2.0


def drift(
    bundle: RefOrPath,
    current: Annotated[
        str | None,
        typer.Option(
            help="The rows of now (.parquet .csv .jsonl .feather .npy .npz); - reads CSV, JSON "
            "lines or Parquet from standard input. Default: the days of production, as the ledger "
            "has them.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(help="How far back days of production are shown: 24h, 7d, 30d.")
    ] = "30d",
    budget: Annotated[
        float, typer.Option(help="False alarms a year that are acceptable, over all columns.")
    ] = 4.0,
    windows_a_year: Annotated[
        int, typer.Option(help="How many windows a year are compared: 365 for one a day.")
    ] = 365,
    time_column: Annotated[
        str | None,
        typer.Option(help="A column of times: each UTC day is a window of its own."),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            help="The least change of a column that matters: COLUMN=0.2, in baseline deviations, "
            "or as a share for categories; may be repeated. Default: 0.1, and 0.02.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        bool, typer.Option(help="Answer the rows, and compare the answers as well.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compare production, or a table, with a bundle's baseline; exit code 1 on an alarm."""
    from bascule.documents import progress_line
    from bascule.monitoring import measure_production_drift

    effects = _effects(effect or [])
    report: DriftReport | ProductionDrift
    if current is None:
        length = length_of(since, "--since")
        with progress_line("drift"):
            report = measure_production_drift(
                *production(bundle), since=length, budget=budget, effects=effects
            )
    else:
        report = _of_table(
            bundle, current, as_json=as_json, budget=budget, windows_a_year=windows_a_year,
            time_column=time_column, effects=effects, score=score,
        )  # fmt: skip
    say_report(report, as_json=as_json)


def _of_table(bundle: str, current: str, *, as_json: bool, **options: Any) -> DriftReport:
    from bascule.batch import read_rows, read_stream, split_truth
    from bascule.bundle import load
    from bascule.monitoring import measure_drift

    rows = (
        read_stream(sys.stdin.buffer) if current == "-" else read_rows(Path(current), "--current")
    )
    rows, _ = split_truth(rows, None, "--current", required=False)
    _, path = context.find(bundle)
    with _bar(quiet=as_json) as progress:
        return measure_drift(load(path), rows, progress=progress, **options)


def _effects(written: list[str]) -> dict[str, Effect]:
    """`COLUMN=0.2` as the limits of a column; the distance keeps its half of the deviations."""
    from bascule.monitoring import Effect

    return {
        column: Effect(deviations=value, distance=value / 2, share=value)
        for column, value in effects_of(written, "COLUMN", "distance=0.2").items()
    }


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A spinner on standard error, and a bar of windows once the work has taken 2 s."""
    if quiet:
        yield lambda _done, _all: None
        return
    from rich.progress import Progress

    screen = console(stderr=True)
    start = time.monotonic()
    with screen.status("comparing") as status, ExitStack() as opened:
        bars: list[Progress] = []

        def tell(done: int, windows: int) -> None:
            if not bars and time.monotonic() - start > _QUIET_S:
                status.stop()
                bars.append(opened.enter_context(Progress(console=screen, transient=True)))
                bars[0].add_task("windows")
            for bar in bars:
                bar.update(bar.task_ids[0], completed=done, total=windows)

        yield tell
