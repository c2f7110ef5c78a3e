"""Answers requests for models: workers on one port, and the supervisor that keeps them alive.

The life of a request: `http` (bytes to an exchange, its route) -> `protocols` (an exchange to a
call) -> `models`, `engine` (inline or batched) -> `protocols` (outputs to bytes) -> `http` (one
write, one count). `plane` holds the models and asks every protocol for its routes.
"""

from __future__ import annotations

from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import MetricLabels, Totals, prometheus_text
from bascule.serving.telemetry.request_log import RequestLogConfig
from bascule.serving.transports.authenticator import Authenticator
from bascule.serving.transports.statuses import error_text, status_of
from bascule.serving.transports.tls import Tls
from bascule.serving.workers.control_child import ControlCommand
from bascule.serving.workers.supervisor import ModelState, Supervisor, WorkerStatus, bind

__all__ = [
    "Authenticator",
    "ControlCommand",
    "Limits",
    "MetricLabels",
    "ModelSpec",
    "ModelState",
    "RequestLogConfig",
    "ResiliencePolicy",
    "Supervisor",
    "Tls",
    "Totals",
    "WorkerStatus",
    "bind",
    "error_text",
    "prometheus_text",
    "status_of",
]
