"""What the control API does with endpoints."""

from __future__ import annotations

from bascule.endpoints.records import Deployed, Endpoint, PlanEvent, StoredPlan
from bascule.operations import Listing, Operation
from bascule.security import ANY

_ITS = "{endpoint}"

ENDPOINTS = Listing("GET endpoints", "read", ANY, Endpoint)
# Which endpoint is in the body: asked then.
CREATE = Operation("POST endpoints", "deploy", "", Deployed, status=201, history="deployed")
ENDPOINT = Operation("GET endpoints/{endpoint}", "read", _ITS, Endpoint)
# The model of the fallback is in the body: asked then.
CHANGE = Operation("PATCH endpoints/{endpoint}", "deploy", _ITS, Deployed, history="changed")
PLANS = Listing("GET endpoints/{endpoint}/plans", "read", _ITS, StoredPlan)
DEPLOY_TO = Operation(
    "POST endpoints/{endpoint}/plans", "deploy", _ITS, Deployed, status=201, history="deployed"
)
PLAN = Operation("GET endpoints/{endpoint}/plans/{number}", "read", _ITS, StoredPlan)
HISTORY = Listing("GET endpoints/{endpoint}/history", "read", _ITS, PlanEvent)
ROLL_BACK = Operation(
    "POST endpoints/{endpoint}/rollback", "deploy", _ITS, Deployed, status=201,
    history="rolled_back",
)  # fmt: skip
