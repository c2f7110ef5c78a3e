"""The commands about watermarks: embed one, verify one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AllowPickle, AsJson, Target
from bascule.cli.screen import note, print_json, say

if TYPE_CHECKING:
    from bascule.core import Columns

_KeyFile = Annotated[
    Path, typer.Option(help="The secret key: a file of 64 hexadecimal digits, mode 0600.")
]


def register(app: typer.Typer) -> None:
    """Add the group `watermark` to `app`."""
    group = typer.Typer(
        help="Marks in the answers of a model that show whose it is.", no_args_is_help=True
    )
    for command in (embed, verify):
        group.command()(command)
    app.add_typer(group, name="watermark")


def embed(
    model: Annotated[Path, typer.Argument(help="A fitted classifier: .skops.")],
    train: Annotated[Path, typer.Option(help="The rows that it was trained on.")],
    key: _KeyFile,
    to: Annotated[Path, typer.Option(help="Write the marked model: .skops.")],
    receipt: Annotated[Path, typer.Option(help="Write what verify needs beside the key.")],
    target: Target = None,
    share: Annotated[float, typer.Option(help="Of a forest: the share of rows to mark.")] = 0.02,
    queries: Annotated[int, typer.Option(help="Of others: rows to learn by heart.")] = 40,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Make a copy of a classifier that bears a watermark; a key that is not there is made."""
    from bascule.batch import as_trained, read_rows, split_truth
    from bascule.core import Invalid, writing
    from bascule.packing import embed_watermark, new_watermark_key, read_model, read_watermark_key

    if to.suffix != ".skops":
        raise Invalid(f"--to {to}: it writes .skops files", hint="name it MODEL.skops")
    fitted = read_model(model, allow_pickle=allow_pickle)
    rows, truth = split_truth(
        read_rows(train, "--train table"), target, f"--train table {train.name}", required=True
    )
    secret = read_watermark_key(key) if key.exists() else new_watermark_key(key)
    marked, proof = embed_watermark(
        fitted, as_trained(fitted, rows), truth, key=secret, share=share, queries=queries
    )
    import skops.io

    with writing(to):
        skops.io.dump(marked, to)
    digest = proof.write(receipt)
    if as_json:
        print_json({"form": proof.form, "queries": proof.queries, "receipt_sha256": digest})
        return
    say(f"marked {proof.queries} answers ({proof.form}): {to}")
    note(f"keep {key} secret; keep the date of {receipt}: sha256 {digest}")


def verify(
    receipt: Annotated[Path, typer.Argument(help="What embed wrote.")],
    model: Annotated[str, typer.Argument(help="A version, a folder, or the URL of a server.")],
    key: _KeyFile,
    name: Annotated[str, typer.Option(help="At a URL: the name of the model there.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a model for the marked answers; exit code 1 where chance explains them (p >= 1e-6)."""
    from bascule.packing import Receipt, read_watermark_key, verify_watermark

    verdict = verify_watermark(Receipt.read(receipt), read_watermark_key(key), _asks(model, name))
    is_marked = verdict.p_value < 1e-6
    if as_json:
        print_json({"p_value": verdict.p_value, "queries": verdict.queries, "form": verdict.form,
                    "agreement": verdict.agreement, "is_marked": is_marked})  # fmt: skip
    else:
        word = "bears the watermark" if is_marked else "does not show the watermark"
        say(f"{model} {word}: p = {verdict.p_value:.2g}, {verdict.queries} queries")
    if not is_marked:
        raise typer.Exit(1)


def _asks(model: str, name: str) -> Any:
    """What answers rows: a matrix where the receipt has no names of columns."""

    def by(predict: Any) -> Any:
        def answers(columns: Columns) -> Columns:
            rows = columns["input"] if list(columns) == ["input"] else columns
            return dict(predict(rows))

        return answers

    if model.startswith(("http://", "https://")):
        from bascule_client import Client

        return by(Client(model, model=name or None, key=os.environ.get("BASCULE_KEY")).predict)
    from bascule.bundle import load

    return by(load(context.find(model)[1]).predict)
