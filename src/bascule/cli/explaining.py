"""The command that says why: what each column adds to the answers for the rows of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath
from bascule.cli.screen import note, print_json, print_table, say

_BAR = 24
_SHOWN_ROWS = 5


def explain(
    bundle: RefOrPath,
    data: Annotated[Path, typer.Argument(help="Rows (.parquet .csv .jsonl .feather .npy .npz).")],
    top: Annotated[int, typer.Option(min=1, help="The columns to show, largest first.")] = 10,
    rows: Annotated[int, typer.Option(min=1, help="The rows to show.")] = _SHOWN_ROWS,
    counterfactual: Annotated[bool, typer.Option(
        "--counterfactual", help="Show the smallest changes of the first row that alter its answer."
    )] = False,
    to: Annotated[str, typer.Option(
        help="With --counterfactual: the class, or for numbers such as '<30' or '>30'."
    )] = "",
    change: Annotated[list[str] | None, typer.Option(
        help="With --counterfactual: a column that may change, again for others. All if left out."
    )] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what each column adds to the answers for the rows of a file."""
    from bascule.batch import read_rows, split_truth
    from bascule.bundle import load

    _, path = context.find(bundle)
    loaded = load(path)
    read, _ = split_truth(read_rows(data, "data"), None, "data", required=False)
    if counterfactual:
        results = list(_counterfactuals(loaded, read, to, change))
        print_json(results) if as_json else _show_changes(results)
        return
    explained = list(_explained(loaded, read, top))
    if as_json:
        print_json(explained)
        return
    for row in (row for row in explained if row["row"] < rows):
        _show(row)
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


def _show(row: dict[str, Any]) -> None:
    say(f"row {row['row']}: {next(iter(row['answer'].values()))}")
    bars = {**row["attributions"], "all others": row["rest"]}
    largest = max(map(abs, bars.values())) or 1.0
    lines = [
        ("base", row["base"], ""),
        *((name, value, _bar(value / largest)) for name, value in bars.items()),
        ("margin", row["margin"], ""),
    ]
    print_table(
        ["column", f"{row['output']} ({row['link']})", ""],
        [(name, f"{value:+.6g}", bar) for name, value, bar in lines],
    )


def _bar(share: float) -> str:
    return ("█" if share > 0 else "░") * round(abs(share) * _BAR)


def _counterfactuals(
    bundle: Any, data: Any, to: str, change: list[str] | None
) -> Iterator[dict[str, Any]]:
    """One document for each set of changes of the first row."""
    from bascule.bundle import conform, take
    from bascule.bundle.explaining import column_places, counterfactuals, ranges_of
    from bascule.core import Invalid

    signature, statements = bundle.signature, bundle.statements("training")
    ranges = ranges_of(signature, statements[-1].body["columns"]) if statements else {}
    fixed = [name for name in change or () if name not in ranges]
    if fixed:
        raise Invalid(
            f"--change: {fixed[0]!r} is no column that can be changed",
            hint=f"columns with a range of training rows are {', '.join(list(ranges)[:20])}",
        )
    row = take(conform(data, signature), slice(1))
    output, before = next(iter(dict(bundle.predict(row)).items()))
    chosen = {name: known for name, known in ranges.items() if not change or name in change}
    goal = _goal(bundle, output, before[0], to)
    for result in counterfactuals(goal, column_places(signature), chosen, row):
        yield {
            "changes": {name: [*map(_plain, both)] for name, both in result.changes.items()},
            "distance": result.distance,
            "answer": {
                "before": _plain(before[0]),
                "after": _plain(dict(bundle.predict(result.row))[output][0]),
            },
        }


def _goal(bundle: Any, output: str, own: Any, to: str) -> Callable[[Any], Any]:
    """Whether answers are of another class, of the class `to`, or beyond a bound of a number."""
    import numpy as np

    from bascule.core import Invalid

    labels = [str(label) for label in bundle.classes or ()]
    if labels:
        if to and to not in labels:
            raise Invalid(f"--to: {to!r} is no class", hint=f"there are {', '.join(labels)}")
        return lambda rows: np.array(
            [str(label) == to if to else label != own for label in bundle.predict(rows)["label"]]
        )
    try:
        sign, bound = {"<": 1.0, ">": -1.0}[to[:1]], float(to[1:])
    except (KeyError, ValueError):
        raise Invalid("--to: the model answers a number", hint="give '<30' or '>30'") from None
    return lambda rows: sign * (bundle.predict(rows)[output].reshape(-1) - bound) <= 0


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _show_changes(results: list[dict[str, Any]]) -> None:
    for result in results:
        say(f"{result['answer']['before']} -> {result['answer']['after']}")
        for name, both in result["changes"].items():
            then, now = (f"{own:.6g}" if isinstance(own, float) else str(own) for own in both)
            say(f"  {name}: {then} -> {now}")
    note(
        "each was answered by the model; a smaller change may exist"
        if results
        else "no change within the training rows' ranges leads there"
    )
