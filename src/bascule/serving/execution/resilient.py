"""Runs the calls of a model by its policy: tries again, falls back, and keeps the breaker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bascule.core.errors import BasculeError, Overloaded, Unavailable
from bascule.core.fields import Columns
from bascule.serving.execution.resilience import (
    Breaker,
    Closed,
    Open,
    ResiliencePolicy,
    Retries,
    admitted,
    is_failure,
    noted,
    opens_again_in_s,
)

if TYPE_CHECKING:
    from bascule.serving.execution.calls import Call
    from bascule.serving.execution.engine import Deliver, Outcome
    from bascule.serving.execution.served import ServedModel

log = logging.getLogger(__name__)

_EARLY_S = 0.002
"""The loop counts in milliseconds, so a timer may come by one or two before its time."""


class FallbackAnswer(Columns):
    """The outputs of a fallback. Whoever tells them says by whom they are."""

    by: ServedModel


class ResilientPredictor:
    """The policy of one version in one worker, and how it stands. On the event loop only."""

    def __init__(
        self,
        model: ServedModel,
        policy: ResiliencePolicy,
        find: Callable[[str], ServedModel | None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.model = model
        self.policy = policy
        self.find = find
        self.now_s = loop.time
        self.breaker: Breaker = Closed()
        self.retries = Retries()

    def answer(self, call: Call, allowed_s: float, deliver: Deliver) -> Callable[[], None] | None:
        """See `ServedModel.answer`."""
        return _Attempt(self, call, self.now_s() + allowed_s, deliver).start()

    def note(self, *, ok: bool) -> None:
        """A call that ran has succeeded or failed."""
        before = self.breaker
        self.breaker = noted(self.policy, before, self.now_s(), ok=ok)
        if not ok:
            self.model.slot.count_failure()
        if isinstance(self.breaker, Open) != isinstance(before, Open):
            how = "opens" if isinstance(self.breaker, Open) else "closes"
            log.warning("the breaker of %s/%s %s", self.model.name, self.model.version, how)


class _Attempt:
    """One call on its way through a resilient."""

    __slots__ = (
        "_call",
        "_cancel_run",
        "_deliver",
        "_hurried_until_s",
        "_is_over",
        "_retried",
        "_shield",
        "_until_s",
    )  # fmt: skip

    def __init__(
        self, resilient: ResilientPredictor, call: Call, until_s: float, deliver: Deliver
    ) -> None:
        self._shield = resilient
        self._call = call
        self._until_s = until_s
        self._deliver = deliver
        self._retried = False
        self._hurried_until_s = math.inf
        self._is_over = False
        self._cancel_run: Callable[[], None] | None = None

    def start(self) -> Callable[[], None] | None:
        resilient = self._shield
        policy = resilient.policy
        breaker = admitted(policy, resilient.breaker, resilient.now_s())
        if breaker is None:
            self._fall_back(self._held_back())
        else:
            resilient.breaker = breaker
            resilient.retries = resilient.retries.earned(policy)
            self._run()
        return None if self._is_over else self.cancel

    def cancel(self) -> None:
        """The caller has gone."""
        self._is_over = True
        if self._cancel_run is not None:
            self._cancel_run()

    def _run(self) -> None:
        resilient = self._shield
        now_s = resilient.now_s()
        fair_s = resilient.policy.timeout_s or resilient.model.limits.deadline_s
        allowed_s = min(self._until_s - now_s, fair_s)
        self._hurried_until_s = now_s + allowed_s if allowed_s < 0.99 * fair_s else math.inf
        try:
            self._cancel_run = resilient.model.run(self._call, allowed_s, self._done)
        except Unavailable as error:
            self._done(error)
        except Overloaded as error:
            if not self._retried:
                raise  # nothing was run, and nothing is known of the model
            self._fall_back(error)

    def _done(self, outcome: Outcome) -> None:
        if self._is_over:
            return
        failed = is_failure(outcome)
        # Who waits for less than the model may take says nothing of the model by giving up, or else
        # a few callers in a hurry would open its breaker for everybody.
        if not failed or self._shield.now_s() < self._hurried_until_s - _EARLY_S:
            self._shield.note(ok=not failed)
        if not failed:
            self._end(outcome)
        elif not self._tries_again(outcome):
            assert isinstance(outcome, BasculeError)
            self._fall_back(outcome)

    def _tries_again(self, outcome: Outcome) -> bool:
        resilient = self._shield
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
        resilient = self._shield
        left_s = self._until_s - resilient.now_s()
        other = resilient.find(resilient.policy.fallback) if resilient.policy.fallback else None
        if other is None or other is resilient.model or left_s <= 0:
            self._end(error)
            return

        def told(outcome: Outcome) -> None:
            if self._is_over:
                return
            if isinstance(outcome, BasculeError):
                self._end(error)  # of the model that was asked: the other is not the caller's
                return
            resilient.model.slot.count_fallback()
            standin = FallbackAnswer(outcome)
            standin.by = other
            self._end(standin)

        try:
            # Not by its own resilient: two that fall back on each other would never end.
            self._cancel_run = other.run(_for_program(self._call, other), left_s, told)
        except (Overloaded, Unavailable):
            self._end(error)

    def _end(self, outcome: Outcome) -> None:
        self._is_over = True
        self._deliver(outcome)

    def _held_back(self) -> Unavailable:
        resilient = self._shield
        wait_s = opens_again_in_s(resilient.policy, resilient.breaker, resilient.now_s())
        return Unavailable(
            f"{resilient.model.name}/{resilient.model.version} failed "
            f"{resilient.policy.breaker_failures} times in a row, and is tried again in "
            f"{wait_s:.0f} s",
            hint="retry later; see the server's log",
            retry_after_s=max(1, round(wait_s)),
        )


def _for_program(call: Call, other: ServedModel) -> Call:
    """The same rows in the dtypes that the other's program reads, which may compute otherwise."""
    columns = {
        field.name: call.columns[field.name].astype(field.dtype.numpy, copy=False)
        for field in other.program.inputs
    }
    return call._replace(columns=columns)
