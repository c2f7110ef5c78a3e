"""A deprecated version: its answers announce the sunset, after which it answers no more."""

from __future__ import annotations

from bascule.core import BasculeError, Gone
from bascule.serving.calls import (
    Answer,
    AnsweredBy,
    Call,
    Cancel,
    Context,
    Deliver,
    DeliverParts,
    Outcome,
    PartsOutcome,
)
from bascule.serving.execution.predictors import AroundPredictor, Predictor
from bascule.serving.specs import Notice


class DeprecatedPredictor(AroundPredictor):
    """One version and its notice in one worker (a `Predictor`). On the event loop only."""

    def __init__(self, model: Predictor, notice: Notice) -> None:
        super().__init__(model)
        self.notice = notice
        # Answers are by another value than `by`, so that protocols write their head.
        self._shown = {model.by: model.by._replace(notice=notice.headers)}

    def check_room(self, allowed_s: float) -> None:
        """See `Predictor.check_room`.

        Raises:
            Gone: The sunset has passed; not even the body is parsed.
        """
        if self.notice.is_over:
            raise _gone(self.by.name, self.notice)
        self.model.check_room(allowed_s)

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`; raises `Gone` after the sunset."""
        if self.notice.is_over:
            raise self._gone_by(context)

        def take(outcome: Outcome) -> None:
            if not isinstance(outcome, BasculeError):
                by = self._shown_by(outcome.by)
                context.show(by)
                outcome = Answer(outcome.outputs, by, outcome.original, outcome.inputs)
            deliver(outcome)

        return self.model.answer(call, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises `Gone` after the sunset."""
        if self.notice.is_over:
            raise self._gone_by(context)

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome.by = self._shown_by(outcome.by)
                context.show(outcome.by)
            deliver(outcome)

        return self.model.answer_in_parts(call, context, allowed_s, take)

    def _gone_by(self, context: Context) -> Gone:
        context.show(self._shown[self.by])
        return _gone(self.by.name, self.notice)

    def _shown_by(self, by: AnsweredBy) -> AnsweredBy:
        """The same with the notice; also of a fallback, which answers for the version."""
        known = self._shown.get(by)
        if known is None:
            known = self._shown[by] = by._replace(notice=self.notice.headers)
        return known


def _gone(name: str, notice: Notice) -> Gone:
    instead = f"use {notice.successor}" if notice.successor else "use another version"
    return Gone(
        f"{name} is deprecated, and its sunset has passed",
        hint=instead,
        successor=notice.successor,
        head="".join(f"{field}: {value}\r\n" for field, value in notice.headers),
    )
