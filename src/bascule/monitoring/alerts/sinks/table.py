"""The kinds of sinks: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.core import load_named
from bascule.monitoring.alerts.sinks.receivers import Receiver, Sink

SINKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "webhook": ("bascule.monitoring.alerts.sinks.webhook:Webhook", ("url",)),
    "slack": ("bascule.monitoring.alerts.sinks.slack:Slack", ("url",)),
    "alertmanager": ("bascule.monitoring.alerts.sinks.alertmanager:Alertmanager", ("url",)),
    "mail": ("bascule.monitoring.alerts.sinks.mail:Mail", ("host", "sender", "to")),
}
"""By kind: the class of the sink, and the settings that it requires."""


def open_sink(receiver: Receiver) -> Sink:
    """The sink of a receiver. Raises `Invalid` where it lacks a setting."""
    place, required = SINKS[receiver.kind]
    for name in required:
        if not getattr(receiver, name):
            raise receiver.wrong(name, f"a receiver of kind {receiver.kind} requires it")
    sink: Sink = load_named(place)(receiver)
    return sink
