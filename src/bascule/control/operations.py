"""What the control API does with its server, its reports, the history, sessions and settings."""

from __future__ import annotations

from typing import Any

from bascule.control.answers import (
    Approval,
    ArmCounts,
    Callers,
    Health,
    Incident,
    IndexEntry,
    Nothing,
    OwnSession,
    Prediction,
    PredictionRows,
    Receiver,
    Served,
    Server,
    ShownSession,
    ShownSettings,
    SignInLink,
    Trial,
)
from bascule.control.history import Act
from bascule.operations import Listing, Operation
from bascule.security import ANY
from bascule.serving.telemetry import Look

_EXTENSION = "model repository extension"
_REPORT = dict[str, Any]

HEALTH = Operation("GET /health", "health", "", Health, "server")
METRICS = Operation("GET /metrics", "metrics", "", bytes, "server")
SERVER = Operation("GET server", "read", ANY, Server)
LOAD = Operation("GET server/load", "read", ANY, Look)
SERVED_PLANS = Operation("GET server/plans", "read", ANY, dict[str, int])
SERVICES = Listing("GET server/services", "read", ANY, Served)
# Of which model is in the body: asked then.
LOAD_SERVICE = Listing("POST server/services", "manage", "", Served)
UNLOAD_SERVICE = Listing("DELETE server/services/{model}", "manage", "{model}", Served)
ARMS = Listing("GET endpoints/{endpoint}/arms", "read", "{endpoint}", ArmCounts)
INDEX = Operation("POST /v2/repository/index", "read", ANY, list[IndexEntry], _EXTENSION)
LOAD_MODEL = Operation(
    "POST /v2/repository/models/{model}/load", "manage", "{model}", Nothing, _EXTENSION
)
UNLOAD_MODEL = Operation(
    "POST /v2/repository/models/{model}/unload", "manage", "{model}", Nothing, _EXTENSION
)

MONITOR = Operation("GET models/{model}/monitor", "read", "{model}", _REPORT, "monitoring")
DRIFT = Operation("GET models/{model}/drift", "read", "{model}", _REPORT, "monitoring")
PERFORMANCE = Operation("GET models/{model}/performance", "read", "{model}", _REPORT, "monitoring")
CALLERS = Operation(
    "GET models/{model}/versions/{number}/callers", "read", "{model}", Callers, "monitoring"
)
# It tells of alerts and models.
INCIDENT = Operation("GET endpoints/{endpoint}/incident", "read", ANY, Incident, "monitoring")
DOCUMENT = Operation(
    "GET models/{model}/versions/{number}/documents/{document}", "read", "{model}", _REPORT,
    "registry",
)  # fmt: skip
# It shows rows of a caller.
REPLAY = Operation("POST replays", "manage", ANY, _REPORT, "monitoring")
# Of which model is in the query, or known by the prediction: asked then.
PREDICTIONS = Operation("GET predictions", "manage", "", PredictionRows, "ledger")
PREDICTION = Operation("GET prediction", "manage", "", Prediction, "ledger")

HISTORY = Listing("GET history", "read", ANY, Act)
EXPORT_HISTORY = Operation("GET history/export", "read", ANY, bytes)
# With the addresses and keys of callers.
EXPORT_CHAIN = Operation("GET audit/chain", "keys", "", bytes, "history")
APPROVALS = Listing("GET approvals", "read", ANY, Approval, "history")
# Which model it is about is known once it is found: asked then.
DECIDE = Operation("POST approvals/{approval}/{decision}", "approve", "", Approval, "history")

# Of the request's own session: nothing else is shown or ended.
SESSION = Operation("GET session", None, "", OwnSession, "sessions")
END_SESSION = Operation("DELETE session", None, "", ShownSession, "sessions", history="signed_out")
SESSIONS = Listing("GET sessions", "keys", "", ShownSession)
END_NAMED_SESSION = Operation(
    "DELETE sessions/{session}", "keys", "", ShownSession, history="session_ended"
)
# A link has rights that its maker has: asked then.
OFFER_LINK = Operation(
    "POST sign-in-links", "read", "", SignInLink, "sessions", status=201, history="link_offered"
)

RECEIVERS = Listing("GET receivers", "read", ANY, Receiver, "settings")
TRY_RECEIVER = Operation("POST receivers/{receiver}/test", "write", ANY, Trial, "settings")
SETTINGS = Operation("GET settings", "read", ANY, ShownSettings)
