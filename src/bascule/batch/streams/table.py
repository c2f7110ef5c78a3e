"""The broker that a text means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.batch.streams.port import Address, Publisher, Subscription
from bascule.core import Invalid, MissingExtra, load_named

BROKERS: Mapping[str, str] = {
    "kafka": "bascule.batch.streams.kafka",
    "nats": "bascule.batch.streams.nats",
}
"""By the scheme of the address."""


def open_subscription(address: Address, group: str) -> Subscription:
    """Join a group, whose name `?group=` of the address may say.

    Raises:
        Invalid: There is no such broker or topic.
        MissingExtra: Its client is not installed.
        Unavailable: It is away.
    """
    opened: Subscription = _opened(
        address, "open_subscription", address.options.get("group", group)
    )
    return opened


def open_publisher(address: Address, source: Subscription, name: str) -> Publisher:
    """Open what publishes the answers to messages of `source`; raises as `open_subscription`.

    No other stream has this `name`, and a stream keeps its own when it is opened again.
    """
    opened: Publisher = _opened(address, "open_publisher", source, name)
    return opened


def _opened(address: Address, name: str, *arguments: Any) -> Any:
    if address.scheme not in BROKERS:
        raise Invalid(
            f"{address.place} is no stream", hint=f"write {' or '.join(BROKERS)}://HOST/TOPIC"
        )
    try:
        return load_named(f"{BROKERS[address.scheme]}:{name}")(address, *arguments)
    except ImportError:
        raise MissingExtra(
            "streams need the client of their broker", hint="pip install 'bascule[streams]'"
        ) from None
