"""What a broker of messages does for a stream: the port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from bascule.core import Invalid, masked


@dataclass(frozen=True, slots=True)
class Address:
    """A topic of a broker: `kafka://HOST:9092/TOPIC?group=NAME`.

    Attributes:
        scheme: Of the broker.
        brokers: Host and port of each, divided by commas, with the user and password if any.
        topic: Or the subject.
        options: What follows `?`.
        place: The whole address without its password, for people.
    """

    scheme: str
    brokers: str
    topic: str
    options: Mapping[str, str]
    place: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Raises `Invalid` where no broker or topic is named."""
        url = urlsplit(text)
        topic = url.path.strip("/")
        if not url.netloc or not topic:
            raise Invalid(
                f"{masked(text)} names no broker and topic", hint="write kafka://HOST:9092/TOPIC"
            )
        return cls(url.scheme, url.netloc, topic, dict(parse_qsl(url.query)), masked(text))


@dataclass(frozen=True, slots=True)
class Message:
    """What was taken from a topic.

    Attributes:
        key: That brokers keep the order of; None where there is none.
        value: Its bytes.
        part: The part of the topic that numbers it.
        number: Its place in the part: never that of another message, also after a restart.
        handle: What the broker's library knows it by.
    """

    key: bytes | None
    value: bytes
    part: str
    number: int
    handle: Any = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A message to publish.

    Attributes:
        topic: Or the subject.
        key: That of the message that it answers.
        value: Its bytes.
        id: The same for the same message, however often it is answered.
        headers: Of the message.
    """

    topic: str
    key: bytes | None
    value: bytes
    id: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Subscription(Protocol):
    """A place in a topic that processes of one group share."""

    @property
    def place(self) -> str:
        """Where it is, without passwords."""

    def take(self, most: int, within_s: float) -> list[Message]:
        """Up to so many messages; none where there are none within the time.

        Raises:
            Unavailable: The broker is away.
        """

    def commit(self, messages: Sequence[Message]) -> None:
        """They are done: no process of the group gets them again."""

    def lag(self) -> int:
        """How many messages wait at the broker for this process, as the last `take` has learned."""

    def close(self) -> None:
        """Leave the group. What is not committed goes to another process."""


class Publisher(Protocol):
    """Publishes answers, and with them commits what they answer."""

    def publish(
        self, replies: Sequence[Reply], source: Subscription, messages: Sequence[Message]
    ) -> None:
        """Publish all replies, and commit the messages once the broker has them.

        A process that is killed between the two publishes again: replies have the same ids then.

        Raises:
            Unavailable: The broker is away, and nothing is committed.
            Invalid: There is no such topic.
        """

    def close(self) -> None:
        """Give back the connection."""
