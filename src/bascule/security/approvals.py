"""Acts that take two persons: what is protected, and who may decide. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Literal

from bascule.core import Conflict, Refused

Decision = Literal["approve", "decline"]


@dataclass(frozen=True, slots=True)
class Person:
    """The person that asks or decides.

    Attributes:
        user: The name of the person, or of the key.
        key: The id of the key; empty without one.
        session: The hash of the session; empty without one.
        key_made_by: Who made the key; empty without one.
    """

    user: str
    key: str = ""
    session: str = ""
    key_made_by: str = ""

    def may_be(self, other: Person) -> bool:
        """Whether user, key or session are the same, or one has made the key of the other."""
        pairs = (
            (self.user, other.user), (self.key, other.key), (self.session, other.session),
            (self.user, other.key_made_by), (self.key_made_by, other.user),
        )  # fmt: skip
        return any(first and first == second for first, second in pairs)


def is_protected(thing: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern protects a thing, such as `deploy:late`."""
    return any(fnmatchcase(thing, pattern) for pattern in patterns)


def judge_decision(
    decision: Decision, state: str, ends_at: datetime, asker: Person, decider: Person, *,
    may_approve: bool, now: datetime,
) -> None:  # fmt: skip
    """Return where the person may decide so now.

    Raises:
        Conflict: It was decided, or has ended.
        Refused: The right `approve` is missing, or both may be one person.
    """
    if state != "waiting":
        raise Conflict(f"the request is {state} already", hint="bascule audit approvals")
    if now >= ends_at:
        raise Conflict(f"the request ended undecided at {ends_at}", hint="ask again")
    if not may_approve:
        raise Refused("this takes the right approve", hint="ask an approver")
    if decision == "approve" and asker.may_be(decider):
        raise Refused(
            f"{decider.user} may be the person that asked: this takes another one",
            hint="neither of the two may have made the key of the other",
        )
