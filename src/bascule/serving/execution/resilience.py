"""Decisions for a model that fails: a circuit breaker, a budget of retries, a fallback. Pure.

Too many failures in a row open the breaker: calls do not run, and are answered by the fallback or
with 503. After a while one call runs as a probe; if it succeeds, the breaker closes. Times are in
seconds of any one clock of the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Le

from bascule.core import ModelFailed, TimedOut, Unavailable

_MOST_RETRIES_SAVED = 10.0


@dataclass(frozen=True, slots=True)
class ResiliencePolicy:
    """Timeout, breaker, retries and fallback of a model.

    Attributes:
        timeout_s: How long the model may take, if shorter than the request's deadline; the rest of
            the time is for the fallback. 0 for the deadline.
        breaker_failures: How many failures in a row open the breaker; 0 for no breaker.
        breaker_open_s: How long it stays open before a call runs as a probe.
        retry_percent: The percentage of calls that may be tried once more, if the process of the
            model died or was unavailable.
        fallback: `MODEL` or `MODEL/VERSION` that answers instead; empty for none.
    """

    timeout_s: Annotated[float, Ge(0), Le(3_600)] = 0.0
    breaker_failures: Annotated[int, Ge(0), Le(1_000_000)] = 0
    breaker_open_s: Annotated[float, Gt(0), Le(3_600)] = 10.0
    retry_percent: Annotated[float, Ge(0), Le(100)] = 0.0
    fallback: str = ""


class Closed(NamedTuple):
    """Calls run. `failures`: the number of failures since the last success."""

    failures: int = 0


class Open(NamedTuple):
    """Calls do not run, since `since_s`."""

    since_s: float


class Probing(NamedTuple):
    """One call runs as a probe of the model, since `since_s`."""

    since_s: float


Breaker = Closed | Open | Probing


def admitted(policy: ResiliencePolicy, breaker: Breaker, now_s: float) -> Breaker | None:
    """The breaker after it admits a call; None if the call must not run.

    A probe without an outcome, because its client has gone, is followed by another.
    """
    match breaker:
        case Open(since_s) | Probing(since_s):
            is_time = now_s - since_s >= policy.breaker_open_s
            return Probing(now_s) if is_time else None
    return breaker


def given_back(breaker: Breaker, let: Breaker, before: Breaker) -> Breaker:
    """The breaker after a call that was admitted and never ran, which says nothing of the model.

    Args:
        breaker: The current state.
        let: The state just after it admitted that call.
        before: The state before that: the next call may be the probe.
    """
    return before if isinstance(let, Probing) and breaker is let else breaker


def noted(policy: ResiliencePolicy, breaker: Breaker, now_s: float, *, ok: bool) -> Breaker:
    """The breaker after a call that ran has succeeded or failed."""
    match breaker:
        case Open():
            return breaker  # a call that was under way when it opened says nothing new
        case Probing():
            return Closed() if ok else Open(now_s)
        case Closed(failures):
            if ok or not policy.breaker_failures:
                return Closed()
            failed = failures + 1
            return Open(now_s) if failed >= policy.breaker_failures else Closed(failed)


def opens_again_in_s(policy: ResiliencePolicy, breaker: Breaker, now_s: float) -> float:
    """The time until a call runs as a probe."""
    since_s = now_s if isinstance(breaker, Closed) else breaker.since_s
    return max(0.0, policy.breaker_open_s - (now_s - since_s))


class Retries(NamedTuple):
    """A budget: each call adds its part of a retry, and each retry takes one.

    Without a bound, retries would double the load of a model that is failing already.
    """

    saved: float = 1.0

    def earned(self, policy: ResiliencePolicy) -> Retries:
        return Retries(min(_MOST_RETRIES_SAVED, self.saved + policy.retry_percent / 100))

    def spent(self) -> Retries | None:
        """The budget after one retry; None if it does not allow one."""
        return Retries(self.saved - 1.0) if self.saved >= 1.0 else None


def is_failure(outcome: object) -> bool:
    """Whether the model has failed: wrong rows and a full queue are no failure of the model."""
    return isinstance(outcome, ModelFailed | Unavailable | TimedOut)
