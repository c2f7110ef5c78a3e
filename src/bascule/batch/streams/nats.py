"""NATS JetStream: `nats://HOST:4222/SUBJECT?group=NAME`.

Answers are published first and messages acknowledged then, so that a process that is killed
between the two publishes again. JetStream drops a message whose id it has seen within the
duplicate window of the stream, two minutes unless it is set. Subjects are in streams that are
there already: nothing is made.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from bascule.batch.streams.port import Address, Message, Reply, Subscription
from bascule.core import Invalid, Unavailable

_T = TypeVar("_T")
_WITHIN_S = 30.0


class _Connection:
    """A client on an event loop of its own, which answers pings while a batch is scored."""

    def __init__(self, address: Address) -> None:
        import nats

        self.place = address.place
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._client = self.wait(
                nats.connect(f"nats://{address.brokers}", max_reconnect_attempts=3, error_cb=_quiet)
            )
            self.stream = self._client.jetstream()
        except BaseException:
            self._end()
            raise

    def wait(self, question: Coroutine[Any, Any, _T]) -> _T:
        with _explaining(self.place):
            return asyncio.run_coroutine_threadsafe(question, self._loop).result(_WITHIN_S)

    def close(self) -> None:
        with suppress(Unavailable):
            self.wait(self._client.close())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class NatsSubscription:
    """A durable consumer, which processes of one name share."""

    def __init__(self, address: Address, group: str) -> None:
        self.place = address.place
        self._open: list[Any] = []
        self._lag = 0
        self._connection = _Connection(address)
        try:
            self._pull = self._connection.wait(
                self._connection.stream.pull_subscribe(address.topic, durable=group)
            )
        except BaseException:
            self._connection.close()
            raise

    def take(self, most: int, within_s: float) -> list[Message]:
        found = self._connection.wait(self._fetched(most, within_s))
        self._open += found
        self._lag = found[-1].metadata.num_pending if found else 0
        return [
            Message(
                None, one.data, one.metadata.stream, one.metadata.sequence.stream, one
            )
            for one in found
        ]  # fmt: skip

    async def _fetched(self, most: int, within_s: float) -> list[Any]:
        try:
            return list(await self._pull.fetch(most, timeout=within_s))
        except TimeoutError:  # of the library or of asyncio, by where it waits
            return []

    def commit(self, messages: Sequence[Message]) -> None:
        async def acknowledge() -> None:
            await asyncio.gather(*(one.handle.ack_sync(_WITHIN_S) for one in messages))

        self._connection.wait(acknowledge())
        self._open = []

    def lag(self) -> int:
        return self._lag

    def close(self) -> None:
        async def give_back() -> None:
            await asyncio.gather(*(one.nak() for one in self._open))

        with suppress(Unavailable, Invalid):  # they come again after the wait of the consumer
            self._connection.wait(give_back())
        self._connection.close()


class NatsPublisher:
    """Publishes to subjects, and waits until streams have stored all."""

    def __init__(self, address: Address) -> None:
        self._connection = _Connection(address)

    def publish(
        self, replies: Sequence[Reply], source: Subscription, messages: Sequence[Message]
    ) -> None:
        async def send() -> None:
            stream = self._connection.stream
            await asyncio.gather(
                *(
                    stream.publish(
                        one.topic, one.value, headers={**one.headers, "Nats-Msg-Id": one.id}
                    )
                    for one in replies
                )
            )

        self._connection.wait(send())
        source.commit(messages)

    def close(self) -> None:
        self._connection.close()


async def _quiet(_problem: Exception) -> None:
    """What is wrong is raised where an answer is waited for."""


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    import nats.errors
    import nats.js.errors

    try:
        yield
    except (nats.js.errors.NoStreamResponseError, nats.js.errors.NotFoundError):
        raise Invalid(
            f"{place}: no stream has this subject", hint="nats stream add, with the subject"
        ) from None
    except (nats.errors.Error, OSError, TimeoutError) as problem:
        said = str(problem) or type(problem).__name__
        raise Unavailable(f"{place}: {said}", hint="check that the server is up") from None


def open_subscription(address: Address, group: str) -> NatsSubscription:
    """See `streams.table`."""
    return NatsSubscription(address, group)


def open_publisher(address: Address, _source: Subscription, _name: str) -> NatsPublisher:
    """See `streams.table`."""
    return NatsPublisher(address)
