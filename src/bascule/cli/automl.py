"""The command that searches for a model of a table, and deploys it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli.context import AsJson
from bascule.cli.jobs import print_search, result_of
from bascule.cli.screen import print_table, say

_Texts = list[str] | None


def automl(
    table: Annotated[str, typer.Argument(help="A file, a folder, a glob or a bucket of rows.")],
    target: Annotated[str, typer.Option(help="The column that is predicted.")],
    metric: Annotated[str, typer.Option(help="roc_auc, accuracy, rmse...")] = "",
    budget: Annotated[str, typer.Option(help="For all of it: 60s, 10m, 2h.")] = "10m",
    limit: Annotated[_Texts, typer.Option(help="'latency_p50 <= 1 ms', 'size <= 2 MB'.")] = None,
    time: Annotated[str, typer.Option(help="A column: its newest rows judge.")] = "",
    group: Annotated[str, typer.Option(help="A column: rows of a value stay together.")] = "",
    leave_out: Annotated[_Texts, typer.Option(help="A column that is no input.")] = None,
    model: Annotated[str, typer.Option(help="Its name; that of the target if empty.")] = "",
    deploy: Annotated[str, typer.Option(help="The endpoint that gets the model.")] = "",
    engine: Annotated[str, typer.Option(help="What searches: flaml or optuna.")] = "flaml",
    chart: Annotated[Path | None, typer.Option(help="Draw latency and quality here, SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the best model of a table within limits of cost; exit code 1 if none passes."""
    from bascule.core import seconds_of

    content = {
        "table": table, "target": target, "model": model, "metric": metric,
        "budget_s": seconds_of(budget, "--budget"), "limits": limit or [], "time": time,
        "group": group, "leave_out": leave_out or [], "deploy": deploy, "engine": engine,
    }  # fmt: skip
    result = result_of("automl", content, as_json=as_json)
    print_search(result, _print, chart, as_json=as_json)
    if not result["passes"]:
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    rows = []
    for own in result["candidates"]:
        figures = (own[name] for name in ("quality", "latency_ms", "size_mb"))
        texts = ("" if value is None else f"{value:.4g}" for value in figures)
        mark = "chosen" if own["is_chosen"] else "front" if own["on_front"] else ""
        rows.append((own["kind"], *texts, mark, own["problem"]))
    print_table(("model", result["metric"], "ms", "MB", "", "why not"), rows)
    say(result["sentence"])
    if result["deployed"]:
        say(result["deployed"])
