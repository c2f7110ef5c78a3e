"""The command that says why: what each column adds to the answers for the rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath
from bascule.cli.screen import note, print_json, say

_BAR = 24
_SHOWN_ROWS = 5


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(explain)


def explain(
    bundle: RefOrPath,
    data: Annotated[Path, typer.Argument(help="Rows (.parquet .csv .jsonl .feather .npy .npz).")],
    top: Annotated[int, typer.Option(min=1, help="The columns to show, largest first.")] = 10,
    rows: Annotated[int, typer.Option(min=1, help="The rows to show.")] = _SHOWN_ROWS,
    as_json: AsJson = False,
) -> None:
    """Show what each column adds to the answers for the rows of a file."""
    from bascule.batch import read_rows, split_truth
    from bascule.bundle import load

    _, path = context.find(bundle)
    loaded = load(path)
    read, _ = split_truth(read_rows(data, "data"), None, "data", required=False)
    explained = list(_explained(loaded, read, top))
    if as_json:
        print_json(explained)
        return
    for row in (row for row in explained if row["row"] < rows):
        for line in _lines(row):
            say(line)
    note(explained[0]["about"] if explained else "there are no rows")


def _explained(bundle: Any, data: Any, top: int) -> Iterator[dict[str, Any]]:
    """One document for each row and output."""
    answer = bundle.predict(data, parameters={"explain": f"top{top}"})
    explanation = next(extra.explanation for extra in bundle.extras if extra.name == "explain")
    own = {name: answer[name].tolist() for name in answer if not name.startswith("attributions")}
    count = len(explanation.outputs)
    values = answer["attributions"].reshape(-1, len(explanation.columns), count)
    base, rest = (
        answer[f"attributions_{name}"].reshape(-1, count).tolist() for name in ("base", "rest")
    )
    for row, by_column in enumerate(values):
        for place, output in enumerate(explanation.outputs):
            added = by_column[:, place]
            least = 1e-12 * abs(added).max()  # of rounding alone
            order = [i for i in abs(added).argsort()[::-1].tolist() if abs(added[i]) > least]
            yield {
                "row": row,
                "answer": {name: column[row] for name, column in own.items()},
                "output": output,
                "link": explanation.link,
                "base": base[row][place],
                "attributions": {explanation.columns[i]: float(added[i]) for i in order},
                "rest": rest[row][place],
                "margin": base[row][place] + float(added.sum()) + rest[row][place],
                "about": explanation.about,
            }


def _lines(row: dict[str, Any]) -> Iterator[str]:
    answer = next(iter(row["answer"].values()))
    yield f"row {row['row']}: {answer}; {row['output']} ({row['link']})"
    bars = {**row["attributions"], "all others": row["rest"]}
    widest = max(max(map(len, bars)), len("margin"))
    largest = max(map(abs, bars.values())) or 1.0
    yield f"  {'base':<{widest}}  {row['base']:>+12.6g}"
    for name, value in bars.items():
        bar = ("█" if value > 0 else "░") * round(abs(value) / largest * _BAR)
        yield f"  {name:<{widest}}  {value:>+12.6g}  {bar}"
    yield f"  {'margin':<{widest}}  {row['margin']:>+12.6g}"
    yield ""
