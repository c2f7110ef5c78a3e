"""Kafka, by librdkafka: `kafka://HOST:9092,HOST:9092/TOPIC?group=NAME`.

Where source and sink are of one cluster, answers and offsets are one transaction: consumers that
read what is committed see each answer once. Between two clusters answers are written first, by an
idempotent producer, and a process that is killed before it commits writes them again.
Other settings of the library, such as those of SASL, are in the file that
`BASCULE_KAFKA_PROPERTIES` names, as `security.protocol=SASL_SSL`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.batch.streams.port import Address, Message, Reply, Subscription
from bascule.core import Invalid, Unavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

_WITHIN_S = 30.0
_PROPERTIES = "BASCULE_KAFKA_PROPERTIES"


class KafkaSubscription:
    """A member of a consumer group; new groups begin at the start of the topic."""

    def __init__(self, address: Address, group: str) -> None:
        from confluent_kafka import Consumer

        self.place, self.brokers = address.place, address.brokers
        self.consumer = Consumer(
            _settings(address) | {
                "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )  # fmt: skip
        self._joins_until_s = time.monotonic() + _WITHIN_S
        self._begins: dict[int, int] = {}
        self.consumer.subscribe([address.topic], on_assign=self._joined)

    def _joined(self, consumer: Consumer, parts: Sequence[TopicPartition]) -> None:
        self._joins_until_s = 0.0
        for one in consumer.committed([*parts], _WITHIN_S):
            is_new = one.offset < 0
            low, _ = consumer.get_watermark_offsets(one, _WITHIN_S) if is_new else (one.offset, 0)
            self._begins[one.partition] = low

    def take(self, most: int, within_s: float) -> list[Message]:
        taken = []
        with _explaining(self.place):  # a group takes seconds to take in a member
            found = self.consumer.consume(most, within_s)
            while not found and time.monotonic() < self._joins_until_s:
                found = self.consumer.consume(most, within_s)
            for one in found:
                if (error := one.error()) is not None:
                    raise _explained(self.place, error)
                part = f"{one.topic()}/{one.partition()}"
                taken.append(Message(one.key(), one.value() or b"", part, one.offset() or 0, one))
        return taken

    def commit(self, messages: Sequence[Message]) -> None:
        with _explaining(self.place):
            self.consumer.commit(offsets=offsets_after(messages), asynchronous=False)

    def lag(self) -> int:
        with _explaining(self.place):
            places = self.consumer.position(self.consumer.assignment())
            ends = [self.consumer.get_watermark_offsets(one, cached=True)[1] for one in places]
        begins = [  # the place in a part is not known before its first message
            self._begins.get(one.partition, 0) if one.offset < 0 else one.offset for one in places
        ]
        return sum(max(0, end - begin) for end, begin in zip(ends, begins, strict=True))

    def close(self) -> None:
        self.consumer.close()


class KafkaPublisher:
    """A producer; with transactions where it is of the cluster of its source."""

    def __init__(self, address: Address, source: Subscription, name: str) -> None:
        from confluent_kafka import Producer

        self._place = address.place
        self._is_one = isinstance(source, KafkaSubscription) and source.brokers == address.brokers
        more: dict[str, Any] = {"enable.idempotence": True}
        if self._is_one:
            # A stream that is opened again ends what it left open, which consumers wait for.
            # Another stream of this name would end what this one does.
            more["transactional.id"] = name
        with _explaining(self._place):
            self._producer = Producer(_settings(address) | more)
            if self._is_one:
                self._producer.init_transactions(_WITHIN_S)

    def publish(
        self, replies: Sequence[Reply], source: Subscription, messages: Sequence[Message]
    ) -> None:
        if not self._is_one:
            self._send(replies)
            source.commit(messages)
            return
        assert isinstance(source, KafkaSubscription)
        with _explaining(self._place):
            self._producer.begin_transaction()
            self._send(replies)
            self._producer.send_offsets_to_transaction(
                offsets_after(messages), source.consumer.consumer_group_metadata(), _WITHIN_S
            )
            # One that fails is ended by the next producer of this name: the caller opens the stream
            # again, from the offsets that are committed. Of a killed process it ends in a minute.
            self._producer.commit_transaction(_WITHIN_S)

    def _send(self, replies: Sequence[Reply]) -> None:
        problems: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                problems.append(error)

        with _explaining(self._place):
            for one in replies:
                headers = [*one.headers.items(), ("prediction_id", one.id)]
                self._produce(one, headers, delivered)
            left = self._producer.flush(_WITHIN_S)
        if problems:
            raise _explained(self._place, problems[0])
        if left:
            raise Unavailable(f"{self._place} has not taken {left} messages in {_WITHIN_S:.0f} s")

    def _produce(self, reply: Reply, headers: Any, delivered: Any) -> None:
        while True:
            try:
                self._producer.produce(
                    reply.topic, reply.value, reply.key, headers=headers, on_delivery=delivered
                )  # fmt: skip
                return
            except BufferError:  # its queue is full
                self._producer.poll(1.0)

    def close(self) -> None:
        self._producer.flush(1.0)


def offsets_after(messages: Sequence[Message]) -> list[Any]:
    """The offset after the last of the messages, for each of their partitions."""
    from confluent_kafka import TopicPartition

    last = {one.part: one.handle for one in sorted(messages, key=lambda one: one.number)}
    return [
        TopicPartition(one.topic(), one.partition(), one.offset() + 1) for one in last.values()
    ]  # fmt: skip


def _settings(address: Address) -> dict[str, Any]:
    made = {"bootstrap.servers": address.brokers, "client.id": "bascule", "log_level": 2}
    if file := os.environ.get(_PROPERTIES):
        lines = map(str.strip, Path(file).read_text(encoding="utf-8").splitlines())
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        made |= {name.strip(): value.strip() for name, _, value in pairs}
    return made


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as problem:
        raise _explained(place, problem.args[0]) from None


def _explained(place: str, error: KafkaError) -> Invalid | Unavailable:
    from confluent_kafka import KafkaError

    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
        return Invalid(f"{place}: {error.str()}", hint="make the topic, or check the rights")
    return Unavailable(f"{place}: {error.str()}", hint="check that the brokers are up")


def open_subscription(address: Address, group: str) -> KafkaSubscription:
    """See `streams.table`."""
    return KafkaSubscription(address, group)


def open_publisher(address: Address, source: Subscription, name: str) -> KafkaPublisher:
    """See `streams.table`."""
    return KafkaPublisher(address, source, name)
