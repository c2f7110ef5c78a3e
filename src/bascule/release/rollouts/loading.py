"""Hosts that cannot load a version of a rollout: in words, and when they end the rollout.

A host keeps its former plan until it can load the versions of the next one. It says so to the
controller, which ends the rollout once a host has spent its tries. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from bascule.release.rollouts.plan import LoadFailure, Rollout

AWAY_TIMES = 6
"""So many times more tries where a store or a worker is away, which may come back."""
_SHOWN_HOSTS = 3


def load_trouble(failures: Sequence[LoadFailure], rollout: Rollout) -> str:
    """What the hosts cannot load, in words; empty where they have loaded all."""
    shown = [
        f"{_failed(failure)} ({_tries(failure, rollout)})" for failure in failures[:_SHOWN_HOSTS]
    ]
    more = len(failures) - len(shown)
    return "; ".join([*shown, *([f"and {more} more hosts"] if more > 0 else [])])


def given_up(failures: Sequence[LoadFailure], rollout: Rollout) -> str:
    """Why the rollout ends; empty while a host that cannot load the candidate has tries left.

    A host that cannot load the current version says nothing of the candidate: the rollout waits.
    """
    for failure in failures:
        is_spent = (
            failure.tries >= rollout.load_tries or failure.away >= rollout.load_tries * AWAY_TIMES
        )
        if is_spent and rollout.candidate in failure.versions:
            return f"{_failed(failure)}, tried {failure.tries + failure.away} times"
    return ""


def _failed(failure: LoadFailure) -> str:
    return f"{' or '.join(failure.versions)} cannot be loaded on {failure.host}: {failure.error}"


def _tries(failure: LoadFailure, rollout: Rollout) -> str:
    if failure.away:
        return f"try {failure.away} of {rollout.load_tries * AWAY_TIMES}, it may come back"
    return f"try {failure.tries} of {rollout.load_tries}"
