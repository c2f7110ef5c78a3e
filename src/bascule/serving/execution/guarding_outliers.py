"""Flags or refuses calls with rows unlike the training rows, or has another version answer them.

Rows are scored by the extra output `outlier` after the model has run, where its cost belongs: with
its batch, on its thread. Each answer has the p-values, so the ledger has them too. A call is
refused, or falls back, as a whole; the error names the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bascule.bundle.extras import OUTLIER_P, OUTLIER_SCORE, Outlier
from bascule.core import BasculeError, Columns, Refused
from bascule.serving.calls import Answer, Call, Cancel, Context, Deliver, DeliverParts, Outcome
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundPredictor, Predictor
from bascule.serving.execution.resilient import call_for, check_fallback, has_outputs

_SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """The keys of `[policies.NAME]` about outliers.

    Attributes:
        on_outlier: What happens to a call with an outlier: "flag" answers it with the p-values,
            "refuse" does not answer it, "fallback" has `outlier_fallback` answer it.
        outlier_p: A row with this p-value or a smaller one is an outlier: of the rows that are
            like the training rows, so large a share is.
        outlier_fallback: `MODEL` or `MODEL/VERSION`, with the same inputs and outputs.
    """

    on_outlier: Literal["flag", "refuse", "fallback"] = "flag"
    outlier_p: float = 0.01
    outlier_fallback: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.outlier_p < 1:
            raise ValueError(f"outlier_p: {self.outlier_p:g} is not over 0 and under 1")
        if (self.on_outlier == "fallback") != bool(self.outlier_fallback):
            raise ValueError("outlier_fallback: is set with on_outlier = 'fallback', and only then")


class OutlierGuard:
    """See `Policy`."""

    settings = OutlierSettings

    @staticmethod
    def around(model: Predictor, settings: OutlierSettings, facts: PolicyFacts) -> Predictor:
        """See `Policy.around`."""
        return GuardedPredictor(model, settings, facts)

    @staticmethod
    def check(
        model: Predictor, settings: OutlierSettings, find: Callable[[str], Predictor | None]
    ) -> None:
        """Refuse a version whose p-values do not exist or cannot be so small; see `Policy`."""
        least = model.extras.metadata().get("outlier_smallest_p", 2.0)
        if least > settings.outlier_p:
            why = "no row of it can have a p-value" if least > 1 else f"its p-values end at {least}"
            raise Refused(
                f"{model.name}/{model.version} cannot be under outlier_p = "
                f"{settings.outlier_p:g}: {why}",
                hint=f"pack it with {round(1 / settings.outlier_p)} held-out rows: test=(X, y)",
            )
        other = find(settings.outlier_fallback) if settings.outlier_fallback else None
        check_fallback(model, other, f"policies.{model.name}.outlier_fallback")


class GuardedPredictor(AroundPredictor):
    """One version and what it does with outliers. On the event loop only."""

    def __init__(self, model: Predictor, settings: OutlierSettings, facts: PolicyFacts) -> None:
        super().__init__(model)
        self.extras, self.request = model.extras.for_every_request(Outlier.name, first=True)
        self.settings = settings
        self.find = facts.find
        self.now_s = facts.loop.time

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`."""
        extras = (request for request in call.extras if request.extra.name != Outlier.name)
        call = call._replace(extras=(*extras, self.request))
        if self.settings.on_outlier == "flag":
            return self.model.answer(call, context, allowed_s, deliver)
        until_s = self.now_s() + allowed_s
        running: list[Cancel | None] = []

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                deliver(outcome)
                return
            scored = outcome.outputs
            if OUTLIER_P not in scored:  # of a version that answered for one that failed
                scored = self.request.extra.add(outcome.inputs or call.columns, {}, ())
            if not self.outliers(scored):
                deliver(outcome)
                return
            left_s = until_s - self.now_s()
            try:
                running.append(self._answer_instead(call, context, left_s, deliver, scored))
            except BasculeError as error:
                deliver(error)

        running.insert(0, self.model.answer(call, context, allowed_s, take))

        def cancel() -> None:
            if running[-1] is not None:
                running[-1]()

        return None if running[-1] is None else cancel

    def _answer_instead(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver, scored: Columns
    ) -> Cancel | None:
        """Have the other version answer; raises `Refused` where there is none that can."""
        outliers = self.outliers(scored)
        other = self.other() or self.refuse(outliers)
        own = {name: scored[name] for name in (OUTLIER_P, OUTLIER_SCORE)}
        call = call_for(call, other)
        if call.outputs is not None:
            call = call._replace(outputs=tuple(name for name in call.outputs if name not in own))
        if not has_outputs(other, call):
            self.refuse(outliers)

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                self.model.series.count_fallback()
                outcome = Answer({**outcome.outputs, **own}, outcome.by, None, outcome.inputs)
            deliver(outcome)

        return other.answer(call, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`: scored before it begins, and has no p-values.

        Raises:
            Refused: It has an outlier, and there is no other version that may answer.
        """
        call = call._replace(extras=self.model.extras.by_default)
        model: Predictor = self.model
        if self.settings.on_outlier != "flag":
            outliers = self.outliers(self.request.extra.add(call.columns, {}, ()))
            if outliers:
                model = self.other() or self.refuse(outliers)
                call = call_for(call, model)
        return model.answer_in_parts(call, context, allowed_s, deliver)

    def outliers(self, scored: Columns) -> list[int]:
        """The rows with so small a p-value."""
        return np.flatnonzero(scored[OUTLIER_P] <= self.settings.outlier_p).tolist()

    def other(self) -> Predictor | None:
        """The version that answers outliers; None where none is served."""
        reference = self.settings.outlier_fallback
        return self.find(reference) if reference else None

    def refuse(self, outliers: list[int]) -> Any:
        """Count it, and raise `Refused`."""
        self.model.series.count_refusal("outlier")
        rows = ", ".join(map(str, outliers[:_SHOWN_ROWS]))
        more = f" and {len(outliers) - _SHOWN_ROWS} others" if len(outliers) > _SHOWN_ROWS else ""
        raise Refused(
            f"{self.by.name} does not answer rows unlike its training rows: row {rows}{more} has "
            f"an outlier_p of {self.settings.outlier_p:g} or less",
            hint="check the values, or send the other rows without them",
            rows=outliers,
        )
