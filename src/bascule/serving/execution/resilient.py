"""Runs the calls of a model by its policy: retries, fallback and breaker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from bascule.core import BasculeError, Overloaded, Refused, Unavailable
from bascule.serving.calls import Call, Cancel, Context, Deliver, DeliverParts, Outcome
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundPredictor, Predictor
from bascule.serving.execution.resilience import (
    Breaker,
    Closed,
    Open,
    ResiliencePolicy,
    Retries,
    admitted,
    given_back,
    is_failure,
    noted,
    opens_again_in_s,
)

log = logging.getLogger(__name__)

_EARLY_S = 0.002
"""The loop counts in milliseconds, so a timer may come by one or two before its time."""


class ResilientPredictor(AroundPredictor):
    """One version and its policy in one worker (a `Predictor`). On the event loop only."""

    def __init__(
        self,
        model: Predictor,
        policy: ResiliencePolicy,
        find: Callable[[str], Predictor | None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`find` gives the fallback by its reference, without a policy of its own."""
        super().__init__(model)
        self.policy = policy
        self.find = find
        self.now_s = loop.time
        self.breaker: Breaker = Closed()
        self.retries = Retries()

    def check_room(self, allowed_s: float) -> None:
        """Refuses nothing before the call: the fallback may answer."""

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`."""
        until_s, breaker = self.now_s() + allowed_s, self.breaker
        return _Attempt(self, call, context, until_s, deliver, breaker, breaker).start()

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`: the policy is for what comes before the first part."""
        until_s, breaker = self.now_s() + allowed_s, self.breaker
        attempt = _AttemptInParts(self, call, context, until_s, deliver, breaker, breaker)
        attempt.start()
        return attempt.cancel

    def note(self, *, ok: bool) -> None:
        """A call that ran has succeeded or failed."""
        before = self.breaker
        self.breaker = noted(self.policy, before, self.now_s(), ok=ok)
        if not ok:
            self.model.series.count_failure()
        if isinstance(self.breaker, Open) and isinstance(before, Closed):
            log.warning("the breaker of %s opens", self.by.name)
        elif isinstance(self.breaker, Closed) and not isinstance(before, Closed):
            log.warning("the breaker of %s closes", self.by.name)


class Resilience:
    """Timeout, breaker, retries and fallback of a model; see `Policy`."""

    settings = ResiliencePolicy

    @staticmethod
    def around(model: Predictor, settings: ResiliencePolicy, facts: PolicyFacts) -> Predictor:
        """See `Policy.around`."""
        return ResilientPredictor(model, settings, facts.find, facts.loop)

    @staticmethod
    def check(
        model: Predictor, settings: ResiliencePolicy, find: Callable[[str], Predictor | None]
    ) -> None:
        """Refuse a fallback that takes or gives other fields; one that is not served may come."""
        check_fallback(model, find(settings.fallback), f"serving.models.{model.name}.fallback")


@dataclass(slots=True, eq=False)
class _Attempt:
    """One call under a policy."""

    _method_of: ClassVar[attrgetter[Any]] = attrgetter("answer")

    _resilient: ResilientPredictor
    _call: Call
    _context: Context
    _until_s: float
    _deliver: Any
    _before: Breaker
    _let: Breaker
    _retried: bool = False
    _hurried_until_s: float = math.inf
    _is_over: bool = False
    _cancel_run: Cancel | None = None

    def start(self) -> Cancel | None:
        resilient = self._resilient
        policy = resilient.policy
        breaker = admitted(policy, resilient.breaker, resilient.now_s())
        if breaker is None:
            self._fall_back(self._held_back())
        else:
            resilient.breaker = self._let = breaker
            resilient.retries = resilient.retries.earned(policy)
            self._run()
        return None if self._is_over else self.cancel

    def cancel(self) -> None:
        """The caller has gone."""
        self._is_over = True
        if self._cancel_run is not None:
            self._cancel_run()

    def _run(self) -> None:
        resilient = self._resilient
        now_s = resilient.now_s()
        fair_s = resilient.policy.timeout_s or resilient.model.limits.deadline_s
        allowed_s = min(self._until_s - now_s, fair_s)
        self._hurried_until_s = now_s + allowed_s if allowed_s < 0.99 * fair_s else math.inf
        try:
            answer = self._method_of(resilient.model)
            cancel = answer(self._call, self._context, allowed_s, self._done)
        except Unavailable as error:
            self._done(error)
        except Overloaded as error:
            self._give_back()
            if not self._retried:
                raise
            self._fall_back(error)
        else:
            if cancel is not None:  # else it has answered, perhaps by a fallback with its own
                self._cancel_run = cancel

    def _give_back(self) -> None:
        """Nothing was run, and nothing is known of the model."""
        resilient = self._resilient
        resilient.breaker = given_back(resilient.breaker, self._let, self._before)

    def _done(self, outcome: Outcome) -> None:
        if self._is_over:
            return
        if isinstance(outcome, Overloaded):
            self._give_back()
            self._end(outcome)
            return
        failed = is_failure(outcome)
        # A timeout of a caller that allows less than the model's time is not the model's failure:
        # otherwise a few callers with short timeouts would open the breaker for all.
        if not failed or self._resilient.now_s() < self._hurried_until_s - _EARLY_S:
            self._resilient.note(ok=not failed)
        if not failed:
            self._end(outcome)
        elif not self._tries_again(outcome):
            assert isinstance(outcome, BasculeError)
            self._fall_back(outcome)

    def _tries_again(self, outcome: Outcome) -> bool:
        resilient = self._resilient
        left = resilient.retries.spent()
        if (
            self._retried
            or left is None
            or not resilient.policy.retry_percent
            or not isinstance(outcome, Unavailable)
            or resilient.now_s() >= self._until_s
        ):
            return False
        resilient.retries = left
        self._retried = True
        self._run()
        return True

    def _fall_back(self, error: BasculeError) -> None:
        resilient = self._resilient
        left_s = self._until_s - resilient.now_s()
        other = resilient.find(resilient.policy.fallback) if resilient.policy.fallback else None
        if other is None or other is resilient.model or left_s <= 0:
            self._end(error)
            return

        def deliver(outcome: Outcome) -> None:
            if self._is_over:
                return
            if isinstance(outcome, BasculeError):
                self._end(error)  # of the model that was asked: the other is not the caller's
                return
            resilient.model.series.count_fallback()
            self._end(outcome)

        call = call_for(self._call, other)
        if not has_outputs(other, call):
            self._end(error)  # the fallback lacks an extra output: a bundle without calibration
            return
        try:
            # Not by its own policy: two that fall back on each other would never end.
            answer = self._method_of(other)
            self._cancel_run = answer(call, self._context, left_s, deliver)
        except (Overloaded, Unavailable):
            self._end(error)

    def _end(self, outcome: Outcome) -> None:
        self._is_over = True
        self._deliver(outcome)

    def _held_back(self) -> Unavailable:
        resilient = self._resilient
        wait_s = opens_again_in_s(resilient.policy, resilient.breaker, resilient.now_s())
        return Unavailable(
            f"{resilient.by.name} failed "
            f"{resilient.policy.breaker_failures} times in a row, and is tried again in "
            f"{wait_s:.0f} s",
            hint="retry later; see the server's log",
            retry_after_s=max(1, round(wait_s)),
        )


class _AttemptInParts(_Attempt):
    """The same for an answer in parts: over once its first part is there."""

    __slots__ = ()
    _method_of = attrgetter("answer_in_parts")


def check_fallback(model: Predictor, other: Predictor | None, setting: str) -> None:
    """Refuse one that takes or gives other fields."""
    ours, theirs = model.signature, (other or model).signature
    if other and (ours.inputs, ours.outputs) != (theirs.inputs, theirs.outputs):
        raise Refused(
            f"{other.name}/{other.version} cannot be the fallback of "
            f"{model.name}/{model.version}: it has other inputs or outputs",
            hint=f"set another {setting}",
        )


def has_outputs(predictor: Predictor, call: Call) -> bool:
    """Whether every output that a call lists is the model's own, or an extra output of the call."""
    known = {field.name for field in predictor.signature.outputs}
    known.update(field.name for request in call.extras for field in request.extra.fields)
    return known.issuperset(call.outputs or ())


def call_for(call: Call, other: Predictor, asked: Predictor | None = None) -> Call:
    """The same call in the dtypes that the other's program reads, with extras of the other.

    Of a call that was decoded for `asked`, what both have alike is not looked at.
    """
    if asked is not None and other.program.inputs == asked.program.inputs:
        if call.extras and other.extras is not asked.extras:
            return call._replace(extras=other.extras.instead_of(call.extras))
        return call
    columns = {
        field.name: call.columns[field.name].astype(field.dtype.numpy, copy=False)
        for field in other.program.inputs
    }
    return call._replace(columns=columns, extras=other.extras.instead_of(call.extras))
