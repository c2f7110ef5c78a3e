"""What may be asked again, and after how long. Pure.

Everything that a client asks can be asked again without harm: predictions change nothing at the
server, so even one that was computed, and whose answer was lost, may be. What is asked again:

- a connection that was refused or lost;
- 429, 502 and 503, by which the server says that it did not do it, not before `Retry-After`.

Not asked again: a mistake of the caller's, a model that failed (it would again), and a deadline
that passed, here or there: who was too slow does not get faster by more work.
"""

from __future__ import annotations

from bascule_client.kinds import retry_after_s
from bascule_client.wire import Lost, Outcome

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
_AGAIN = (429, 502, 503)


def wait_before_retry(
    outcome: Outcome, attempt: int, retries: int, remaining_s: float, chance: float
) -> float | None:
    """How many seconds to wait before a request is sent again; None if it is not.

    Args:
        outcome: How it ended.
        attempt: How often it was sent before: 0 after the first time.
        retries: How often it may be sent again in all.
        remaining_s: Until the caller's deadline.
        chance: From 0 to 1, drawn anew: callers that failed together come back one by one.

    The wait is drawn from nothing to a bound that doubles each time ("full jitter"); after a
    `Retry-After` it comes on top.
    """
    if attempt >= retries:
        return None
    least_s = 0.0
    if isinstance(outcome, Lost):
        if outcome.late:
            return None
    elif outcome.status in _AGAIN:
        least_s = retry_after_s(outcome) or 0.0
    else:
        return None
    wait_s = least_s + chance * min(FIRST_WAIT_S * 2.0**attempt, LONGEST_WAIT_S)
    return wait_s if wait_s < remaining_s else None
