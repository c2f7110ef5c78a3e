"""The kinds of sinks: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.core import load_named
from bascule.monitoring.alerts.sinks.receivers import Receiver, Sink

SINKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "webhook": ("webhook:Webhook", ("url",)),
    "slack": ("slack:Slack", ("url",)),
    "alertmanager": ("alertmanager:Alertmanager", ("url",)),
    "mail": ("mail:Mail", ("host", "sender", "to")),
}
"""By kind: the class of the sink, and the settings that it requires."""


def open_sink(receiver: Receiver) -> Sink:
    """The sink of a receiver. Raises `Invalid` where it lacks a setting."""
    place, required = SINKS[receiver.kind]
    for name in required:
        if not getattr(receiver, name):
            raise receiver.wrong(name, f"a receiver of kind {receiver.kind} requires it")
    made: Sink = load_named(f"bascule.monitoring.alerts.sinks.{place}")(receiver)
    return made
