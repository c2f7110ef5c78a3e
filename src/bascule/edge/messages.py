"""MQTT in and out: requests of the Open Inference Protocol as messages, answered as messages.

An answer goes to the `ResponseTopic` that its request names, with its `CorrelationData` (MQTT 5),
or else to the request's topic with `/answer` after it. An error is `{"error": ..., "status": ...}`,
with the status that HTTP would have.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from bascule.core import BasculeError, Invalid, TooLarge, secret_in
from bascule.edge.device import Device
from bascule.edge.serving import MAX_BODY_BYTES
from bascule.serving.transports import error_text, status_of

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttBridge:
    """A connection to a broker, made again when it is lost."""

    def __init__(self, device: Device, broker: str, ca: str | None = None) -> None:
        """Connect in the background.

        Args:
            device: What answers.
            broker: `mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC`, or `mqtts://` within TLS. A part of
                it may be `${env:NAME}` or `${file:PATH}`.
            ca: The file of the authorities that the broker's certificate is of; those of the
                system, if none is given.

        Raises:
            Invalid: The address is none, or a file cannot be read.
        """
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        self._device = device
        self._client = client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        try:
            place = urlsplit(secret_in(broker))
            self._topic = place.path[1:]
            if place.scheme not in _PORTS or not place.hostname or not self._topic:
                raise ValueError("it names no topic of a broker")
            if place.scheme == "mqtts":
                client.tls_set(ca)
            if place.username:
                client.username_pw_set(unquote(place.username), unquote(place.password or ""))
            client.connect_async(place.hostname, place.port or _PORTS[place.scheme])
        except (OSError, ValueError) as problem:
            hint = "write mqtt://HOST:PORT/TOPIC"
            raise Invalid(f"{broker} cannot be used: {problem}", hint=hint) from None
        client.on_connect = self._subscribe
        client.on_message = self._answer
        client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: Any, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            sys.stderr.write(f"error: the broker refused the connection: {reason}\n")
        else:
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
