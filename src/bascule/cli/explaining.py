"""The command that says why: what each column adds to the answers for the rows of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        found = list(_counterfactuals(loaded, read, to, change))
        print_json(found) if as_json else _say_changes(found)
        return
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


def _counterfactuals(
    bundle: Any, data: Any, to: str, change: list[str] | None
) -> Iterator[dict[str, Any]]:
    """One document for each set of changes of the first row."""
    from bascule.bundle import conform, take
    from bascule.bundle.explaining import column_places, counterfactuals, ranges_of
    from bascule.core import Invalid

    signature, said = bundle.signature, bundle.statements("training")
    ranges = ranges_of(signature, said[-1].body["columns"]) if said else {}
    fixed = [name for name in change or () if name not in ranges]
    if fixed:
        raise Invalid(
            f"--change: {fixed[0]!r} is no column that can be changed",
            hint=f"columns with a range of training rows are {', '.join(list(ranges)[:20])}",
        )
    row = take(conform(data, signature), slice(1))
    before = dict(bundle.predict(row))
    output = next(iter(before))
    chosen = {name: known for name, known in ranges.items() if not change or name in change}
    gap = _goal(bundle, before, to)
    for found in counterfactuals(gap, column_places(signature), chosen, row):
        yield {
            "changes": {k: [_plain(one) for one in both] for k, both in found.changes.items()},
            "distance": found.distance,
            "answer": {
                "before": _plain(before[output][0]),
                "after": _plain(dict(bundle.predict(found.row))[output][0]),
            },
        }


def _goal(bundle: Any, before: Any, to: str) -> Callable[[Any], Any]:
    """How far answers are from another class, from the class `to`, or from a bound of a number."""
    import numpy as np

    from bascule.core import Invalid

    output = next(iter(before))
    labels = [str(label) for label in bundle.classes or ()]
    if labels:
        if to and to not in labels:
            raise Invalid(f"--to: {to!r} is no class", hint=f"there are {', '.join(labels)}")
        own = str(before["label"][0])
        goal = np.array([label == to if to else label != own for label in labels])

        def of_class(rows: Any) -> Any:
            answer = dict(bundle.predict(rows))
            reached = goal[[labels.index(str(label)) for label in answer["label"]]]
            shares = answer.get("probabilities")
            if shares is None:
                return np.where(reached, 0.0, 1.0)
            gap = shares[:, ~goal].max(axis=1) - shares[:, goal].max(axis=1)
            return np.where(reached, np.minimum(gap, 0), np.maximum(gap, 1e-9))

        return of_class
    try:
        sign, bound = {"<": 1.0, ">": -1.0}[to[:1]], float(to[1:])
    except (KeyError, ValueError):
        raise Invalid("--to: the model answers a number", hint="give '<30' or '>30'") from None
    scale = max(abs(float(before[output].reshape(-1)[0]) - bound), 1e-12)
    return lambda rows: sign * (bundle.predict(rows)[output].reshape(-1) - bound) / scale


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _say_changes(found: list[dict[str, Any]]) -> None:
    for one in found:
        say(f"{one['answer']['before']} -> {one['answer']['after']}")
        for name, (then, now) in one["changes"].items():
            say(f"  {name}: {_shown(then)} -> {_shown(now)}")
    note(
        "each was answered by the model; a smaller change may exist"
        if found
        else "no change within the training rows' ranges leads there"
    )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
