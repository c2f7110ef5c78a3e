"""The commands about watermarks: embed one, verify one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AllowPickle, AsJson, Target
from bascule.cli.screen import note, print_either

if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.core import Columns


def embed(
    model: Annotated[Path, typer.Argument(help="A fitted classifier: .skops.")],
    train: Annotated[Path, typer.Option(help="The rows that it was trained on.")],
    to: Annotated[Path, typer.Option(help="Write the marked model: .skops.")],
    receipt: Annotated[Path, typer.Option(help="Write what verify needs: a secret file.")],
    target: Target = None,
    share: Annotated[float, typer.Option(help="Of a forest: the share of rows to mark.")] = 0.02,
    queries: Annotated[int, typer.Option(help="Of others: rows to learn by heart.")] = 40,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Make a copy of a classifier that bears a watermark."""
    from bascule.batch import as_trained, read_rows, split_truth
    from bascule.core import Invalid, writing
    from bascule.packing import embed_watermark, read_model

    if to.suffix != ".skops":
        raise Invalid(f"--to {to}: it writes .skops files", hint="name it MODEL.skops")
    fitted = read_model(model, allow_pickle=allow_pickle)
    rows, truth = split_truth(
        read_rows(train, "--train table"), target, f"--train table {train.name}", required=True
    )
    marked, proof = embed_watermark(
        fitted, as_trained(fitted, rows), truth, share=share, queries=queries
    )
    import skops.io

    with writing(to):
        skops.io.dump(marked, to)
    digest = proof.write(receipt)
    print_either(
        {"form": proof.form, "queries": len(proof.drawn), "receipt_sha256": digest},
        f"marked {len(proof.drawn)} answers ({proof.form}): {to}",
        as_json=as_json,
    )
    note(f"keep {receipt} secret, and its date where it can be shown: sha256 {digest}")


def verify(
    receipt: Annotated[Path, typer.Argument(help="What embed wrote.")],
    model: Annotated[str, typer.Argument(help="A version, a folder, or the URL of a server.")],
    name: Annotated[str, typer.Option(help="At a URL: the name of the model there.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a model for the marked answers; exit code 1 where chance explains them (p >= 1e-6)."""
    from bascule.packing import Receipt, verify_watermark

    proof = Receipt.read(receipt)
    p_value = verify_watermark(proof, _answers_of(model, name))
    is_marked = p_value < 1e-6
    word = "bears the watermark" if is_marked else "does not show the watermark"
    print_either(
        {
            "p_value": p_value,
            "queries": len(proof.drawn),
            "form": proof.form,
            "is_marked": is_marked,
        },
        f"{model} {word}: p = {p_value:.2g}, {len(proof.drawn)} queries",
        as_json=as_json,
    )
    if not is_marked:
        raise typer.Exit(1)


def _answers_of(model: str, name: str) -> Callable[[Columns], Columns]:
    """What answers rows: a matrix where the receipt has no names of columns."""
    if model.startswith(("http://", "https://")):
        from bascule_client import Client

        predict: Any = Client(model, model=name or None, key=os.environ.get("BASCULE_KEY")).predict
    else:
        from bascule.bundle import load

        predict = load(context.find(model)[1]).predict

    def answers(columns: Columns) -> Columns:
        return dict(predict(columns["input"] if list(columns) == ["input"] else columns))

    return answers


watermark_group = context.group_of(
    "Marks in the answers of a model that show whose it is.", embed, verify
)
