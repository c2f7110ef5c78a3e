"""MQTT in and out: requests of the Open Inference Protocol as messages, answered as messages.

An answer goes to the `ResponseTopic` that its request names, with its `CorrelationData` (MQTT 5),
or else to the request's topic with `/answer` after it. An error is `{"error": ..., "status": ...}`,
with the status that HTTP would have.
"""

from __future__ import annotations

from threading import Event
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bascule.core import BasculeError, Invalid, TooLarge
from bascule.edge.device import Device
from bascule.edge.serving import MAX_BODY_BYTES
from bascule.serving.transports import error_text, status_of


class MqttBridge:
    """A connection to a broker, made again when it is lost."""

    def __init__(self, device: Device, broker: str) -> None:
        """Connect in the background.

        Args:
            device: What answers.
            broker: `mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC`, or `mqtts://` within TLS.

        Raises:
            Invalid: The address is none.
        """
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        place = urlsplit(broker)
        if place.scheme not in ("mqtt", "mqtts") or not place.hostname or len(place.path) < 2:
            raise Invalid(f"{broker} is no topic of a broker", hint="write mqtt://HOST:PORT/TOPIC")
        self._device, self._topic = device, place.path[1:]
        self.subscribed = Event()
        self._client = client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.username_pw_set(place.username, place.password)
        if place.scheme == "mqtts":
            client.tls_set()
        client.on_connect = self._subscribe
        client.on_subscribe = lambda *_: self.subscribed.set()
        client.on_message = self._answer
        client.connect_async(place.hostname, place.port or 1883)
        client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: Any, *_: Any) -> None:
        client.subscribe(self._topic, qos=1)

    def _answer(self, client: Any, _: Any, message: Any) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        about: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if (correlation := getattr(message.properties, "CorrelationData", None)) is not None:
            about.CorrelationData = correlation
        to = getattr(message.properties, "ResponseTopic", None) or f"{message.topic}/answer"
        client.publish(to, self._body(message.payload), qos=1, properties=about)

    def _body(self, payload: bytes) -> bytes:
        try:
            if len(payload) > MAX_BODY_BYTES:
                raise TooLarge(f"it is over {MAX_BODY_BYTES:,} bytes", hint="send fewer rows")
            return self._device.answer(payload)[0]
        except BasculeError as problem:
            return msgspec.json.encode({"error": error_text(problem), "status": status_of(problem)})
