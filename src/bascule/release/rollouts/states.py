"""Where one rollout stands: all that the controller stores of it beside its decisions."""

from __future__ import annotations

from datetime import datetime

import msgspec

from bascule.endpoints import ContextPolicy


class Running(msgspec.Struct, frozen=True, tag="running"):
    """The candidate has the traffic of stage `stage` since `since`."""

    stage: int
    since: datetime
    shares: tuple[float, ...] = ()
    """Of a bandit: the candidate's share now, as a fraction."""
    policy: ContextPolicy | None = None
    """Of a contextual bandit: how requests are steered now."""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """Stage `stage` is done, and the next one waits for an approval."""

    stage: int
    since: datetime


class Paused(msgspec.Struct, frozen=True, tag="paused"):
    """Stopped in a stage, by a command. Harm still ends the rollout."""

    stage: int
    since: datetime
    policy: ContextPolicy | None = None
    """As of `Running`."""


class Baking(msgspec.Struct, frozen=True, tag="baking"):
    """Promoted; some traffic stays with the former version, to compare with, until the end."""

    stage: int
    since: datetime
    by_hand: bool = False
    """A person has promoted it, so no guard asks a person any more."""


class Promoted(msgspec.Struct, frozen=True, tag="promoted"):
    """The candidate is the current version. Final."""

    at: datetime


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """A shadow that has met its guards. Final; traffic stays with the current version."""

    at: datetime


class Aborted(msgspec.Struct, frozen=True, tag="aborted"):
    """The candidate has no traffic. Final: a new attempt is a new rollout."""

    at: datetime


State = Running | Waiting | Paused | Baking | Promoted | Passed | Aborted
FINAL = (Promoted, Passed, Aborted)
