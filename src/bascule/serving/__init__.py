"""Answers requests for models: workers on one port, and the supervisor that keeps them alive.

The life of a request: `http` (bytes to an exchange, its route) -> `protocols` (an exchange to a
call) -> `models`, `engine` (inline or batched) -> `protocols` (outputs to bytes) -> `http` (one
write, one count). `plane` holds the models and asks every face for its routes.
"""

from __future__ import annotations

from bascule.serving.counters import Label, Totals, prometheus_text
from bascule.serving.guard import Guard
from bascule.serving.journal import JournalConfig
from bascule.serving.limits import Limits
from bascule.serving.resilience import Policy
from bascule.serving.services import Service
from bascule.serving.statuses import error_text, status_of
from bascule.serving.supervisor import ModelState, Supervisor, WorkerStatus, bind
from bascule.serving.tls import Tls

__all__ = [
    "Guard",
    "JournalConfig",
    "Label",
    "Limits",
    "ModelState",
    "Policy",
    "Service",
    "Supervisor",
    "Tls",
    "Totals",
    "WorkerStatus",
    "bind",
    "error_text",
    "prometheus_text",
    "status_of",
]
