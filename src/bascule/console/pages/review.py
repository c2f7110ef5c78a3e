"""`/review` and `/review/MODEL`: answers that wait for a person, and what is true of them."""

from __future__ import annotations

from fastapi import Request, Response

from bascule.console.calling import act
from bascule.console.facts import model_names
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, form_of, render
from bascule.monitoring.reviews import operations

router = PageRouter()
_SHOWN = 10


@router.page("GET /review", "read")
def models(request: Request) -> Response:
    """The models whose answers the person may review, and how many wait."""
    context, session = context_of(request), current(request)
    names = [name for name in model_names(context, session) if session.allows("review", name)]
    waiting = [(name, len(context.reviews().reviews(name))) for name in names]
    return render(
        request, "review_models.html", "Review", crumbs=[Crumb("Review")],
        rows=sorted(waiting, key=lambda row: (-row[1], row[0])),
    )  # fmt: skip


@router.page("GET /review/{model}", "review", "{model}")
def reviews(request: Request, model: str) -> Response:
    """The oldest rows that wait, each with what was asked and answered."""
    store = context_of(request).reviews()
    listed = store.reviews(model)
    shown = listed[:_SHOWN]
    return render(
        request, "review.html", f"Review {model}", model=model, waiting=len(listed),
        crumbs=[Crumb("Review", "/review"), Crumb(model)],
        rows=[
            (review, *parts)
            for review, parts in zip(shown, store.recorded(model, shown), strict=True)
        ],
    )  # fmt: skip


@router.page("POST /review/{model}/{review}", "review", "{model}")
async def answer(request: Request, model: str, review: str) -> Response:
    """Say what is true of a row."""
    names, body = {"model": model, "review": review}, {"truth": field(form_of(request), "truth")}
    done = "Kept as an outcome."
    return await act(request, f"/review/{model}", operations.ANSWER, names, body, done=done)
