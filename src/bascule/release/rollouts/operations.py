"""What the control API does with rollouts, and with deployments that may be one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bascule.endpoints import Deployed
from bascule.operations import Listing, Operation
from bascule.release.rollouts.forecast import Begun
from bascule.release.rollouts.plan import Decision, StoredDecision, StoredRollout
from bascule.release.rollouts.valuing import SteeredValues
from bascule.release.rollouts.verdicts import RolloutVerdict

_ONE = "rollouts/{rollout}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A plan that was made at once, or a rollout that was asked for; the other is null."""

    deployed: Deployed | None
    begun: Begun | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of an endpoint."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of harm of a rollout.

    Attributes:
        log_e: Natural logarithms; null before the first look.
    """

    log_e: list[float | None]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of the decisions of a rollout when they were made again.

    Attributes:
        differing: A sentence for each that differs.
    """

    differing: list[str]


# Of which endpoint is in the body, or known by the rollout: asked then.
ROLLOUTS = Listing("GET rollouts", "read", "", StoredRollout)
BEGIN = Operation("POST rollouts", "deploy", "", Begun, status=201, history="rollout_asked")
ROLLOUT = Operation(f"GET {_ONE}", "read", "", StoredRollout)
DECISIONS = Listing(f"GET {_ONE}/decisions", "read", "", StoredDecision)
EVIDENCE = Operation(f"GET {_ONE}/evidence", "read", "", Evidence)
REPLAY = Operation(f"GET {_ONE}/replay", "read", "", Replay)
VALUES = Operation(f"GET {_ONE}/values", "read", "", SteeredValues)
PROMOTE = Operation(f"POST {_ONE}/promote", "approve", "", Decision)
COMMAND = Operation(f"POST {_ONE}/{{command}}", "deploy", "", Decision)
DEPLOY = Operation("POST deployments", "deploy", "", Deployment, "rollouts", status=201)
DELETE_ENDPOINT = Operation(
    "DELETE endpoints/{endpoint}", "deploy", "{endpoint}", Deleted, history="deleted"
)
VERDICT = Operation("POST verdicts/{endpoint}", "read", "{endpoint}", RolloutVerdict, "rollouts")
VERDICT_QUERY = Operation(
    "GET verdicts/{endpoint}/api/v1/query", "read", "{endpoint}", dict[str, Any], "rollouts"
)
