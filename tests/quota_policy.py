"""A policy for tests: so many calls of a model, and no more. One file, and a line for it."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.core import Overloaded, Refused
from bascule.serving.execution import AroundPredictor

PLACE = "tests.quota_policy:Quota"
"""Its line in the table of policies."""


@dataclass(frozen=True)
class QuotaSettings:
    calls: int


class Quota:
    """See `Policy`."""

    settings = QuotaSettings

    @staticmethod
    def around(predictor, settings, facts):
        assert facts.find("") is None
        return Counted(predictor, settings.calls)

    @staticmethod
    def check(model, settings, find):  # noqa: ARG004
        if not settings.calls:
            raise Refused(f"{model.name} may answer no call")


class Counted(AroundPredictor):
    def __init__(self, model, calls):
        super().__init__(model)
        self.left = calls

    def answer(self, call, context, allowed_s, deliver):
        if not self.left:
            raise Overloaded("the quota is spent")
        self.left -= 1
        return super().answer(call, context, allowed_s, deliver)
