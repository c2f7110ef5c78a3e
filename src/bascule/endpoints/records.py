"""What is kept of endpoints, apart from where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bascule.endpoints.plans import Plan

_INFINITIVES = {"deployed": "deploy", "changed": "change"}


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan, and who made it.

    Attributes:
        plan: The plan.
        made_at: When.
        made_by: The user, or the name of a key.
        reason: Why, in a sentence; may be empty.
    """

    plan: Plan
    made_at: datetime
    made_by: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "made_at": self.made_at.isoformat(),
            "made_by": self.made_by,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint, and the plan that is served.

    Attributes:
        name: The name that requests use.
        follows: The alias that is its source, `MODEL@ALIAS`; empty for none.
        current: The plan with the greatest number, which is served.
    """

    name: str
    follows: str
    current: StoredPlan

    @property
    def answers(self) -> str:
        """Its versions with their shares, in words."""
        return ", ".join(f"{arm.version} {arm.share_percent:g} %" for arm in self.current.plan.arms)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "follows": self.follows, "current": self.current.to_json()}


@dataclass(frozen=True, slots=True)
class StoredEndpoint(Endpoint):
    """An endpoint in the catalogue.

    Attributes:
        following: What a move of its alias deploys with: fields of a request.
    """

    following: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """One line of an endpoint's history.

    Attributes:
        kind: `deployed`, `changed`, `rolled_back`, `followed`, `deleted`, or a kind of a rollout.
        at: When it was recorded.
        by: Who did it.
        reason: Why; may be empty.
        sentence: What happened, in a sentence.
        body: The rest, as JSON.
    """

    kind: str
    at: datetime
    by: str
    reason: str
    sentence: str
    body: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "at": self.at.isoformat(), "by": self.by, "reason": self.reason,
            "sentence": self.sentence, "body": dict(self.body),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment or a rollback makes, or would make.

    Attributes:
        plan: The plan to serve.
        before: The plan of before; None where there was none.
        sentence: What happens, in a sentence.
    """

    plan: Plan
    before: Plan | None
    sentence: str

    def __repr__(self) -> str:
        return f"Deployed({self.sentence!r})"

    @property
    def prospect(self) -> str:
        """The sentence of a dry run: what would happen."""
        done, _, rest = self.sentence.partition(" ")
        return f"would {_INFINITIVES.get(done, done)} {rest}"
