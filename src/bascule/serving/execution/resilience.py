"""What happens around a model that fails: a breaker, a budget of retries, a fallback. Decides only.

A breaker that has seen too many failures one after the other is open: calls are not run, but
answered by the fallback, or 503. After a while one call is let through to see; if it succeeds, the
breaker closes. Time is whatever clock the caller has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bascule.core import ModelFailed, TimedOut, Unavailable

_MOST_RETRIES_SAVED = 10.0


@dataclass(frozen=True, slots=True)
class ResiliencePolicy:
    """How a model is treated that fails.

    Attributes:
        timeout_s: How long it may take, where that is less than the request's deadline; what is
            left is for the fallback. 0 for the deadline.
        breaker_failures: How many failures in a row open the breaker; 0 for no breaker.
        breaker_open_s: How long it stays open before a call is let through to see.
        retry_percent: How many calls in a hundred may be tried once more, where the process of the
            model died or was away.
        fallback: `MODEL` or `MODEL/VERSION` that answers instead; empty for none.
    """

    timeout_s: float = 0.0
    breaker_failures: int = 0
    breaker_open_s: float = 10.0
    retry_percent: float = 0.0
    fallback: str = ""


class Closed(NamedTuple):
    """Calls run. `failures`: how many failed since the last that did not."""

    failures: int = 0


class Open(NamedTuple):
    """Calls do not run, since then."""

    since_s: float


class Probing(NamedTuple):
    """One call runs to see whether the model is well again; it was let through then."""

    since_s: float


Breaker = Closed | Open | Probing


def admitted(policy: ResiliencePolicy, breaker: Breaker, now_s: float) -> Breaker | None:
    """The breaker once a call has been let through; None where the call must not run.

    A probe of which nothing was heard, because its client has gone, is followed by another.
    """
    match breaker:
        case Open(since_s) | Probing(since_s):
            is_time = now_s - since_s >= policy.breaker_open_s
            return Probing(now_s) if is_time else None
    return breaker


def given_back(breaker: Breaker, let: Breaker, before: Breaker) -> Breaker:
    """The breaker after a call that was let through and never ran, which says nothing of the model.

    Args:
        breaker: As it is.
        let: As it was once that call had been let through.
        before: As it was before that: the next call may see whether the model is well again.
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
    """How long until a call is let through to see."""
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
        """The budget after one retry; None where there is none to be had."""
        return Retries(self.saved - 1.0) if self.saved >= 1.0 else None


def is_failure(outcome: object) -> bool:
    """Whether the model is to blame: not for rows that are wrong, nor for a queue that is full."""
    return isinstance(outcome, ModelFailed | Unavailable | TimedOut)
