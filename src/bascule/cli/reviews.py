"""`bascule review`: the answers that wait for a person, and what is true of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.screen import print_either, print_json, print_table, when

if TYPE_CHECKING:
    from bascule.monitoring.reviews import RemoteReviews, ReviewStore

_Model = Annotated[str, typer.Argument(help="The model.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group `review` to `app`."""
    group = typer.Typer(help="Answers that people review.", no_args_is_help=True)
    group.command("list")(list_reviews)
    group.command("answer")(answer)
    app.add_typer(group, name="review")


def list_reviews(
    model: _Model,
    state: Annotated[str, typer.Option(help="open or answered.")] = "open",
    as_json: context.AsJson = False,
) -> None:
    """List the reviews of a model, the oldest prediction first."""
    listed = _store().reviews(model, state)
    if as_json:
        print_json([asdict(review) for review in listed])
        return
    rows = [
        [
            review.id, f"{review.prediction_id}#{review.row}", review.version, review.reason,
            f"{review.probability:.4g}", when(review.predicted_at),
            review.truth or "",
        ]
        for review in listed
    ]  # fmt: skip
    heads = ("review", "prediction", "version", "reason", "probability", "answered", "truth")
    print_table(heads, rows, empty=f"no review of {model} is {state}")


def answer(
    model: _Model,
    review: Annotated[str, typer.Argument(help="Its id.", show_default=False)],
    truth: Annotated[
        str,
        typer.Argument(help="A number, true, false, or a text.", show_default=False),
    ],
    as_json: context.AsJson = False,
) -> None:
    """Say what is true of a row: it becomes an outcome of the prediction."""
    now = datetime.now(UTC)
    done = _store().answer(model, review, truth, by=context.user(), now=now)
    print_either(asdict(done), f"{done.id} is answered: {done.truth}", as_json=as_json)


def _store() -> ReviewStore | RemoteReviews:
    if context.is_remote():
        from bascule.monitoring.reviews import RemoteReviews

        return RemoteReviews(context.control_client())
    from bascule.app import open_reviews

    return open_reviews(context.settings())
