"""A webhook: the notification as JSON, signed.

`Bascule-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 of the seconds, a full stop and the body by
the receiver's secret: a receiver compares it, and refuses an old time. `Idempotency-Key` is the
same for each attempt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time

from bascule.monitoring.alerts.routing import Notification
from bascule.monitoring.alerts.sinks.posting import post
from bascule.monitoring.alerts.sinks.receivers import Sink
from bascule.monitoring.alerts.sinks.words import title


class Webhook(Sink):
    """See `Sink`."""

    def send(self, notification: Notification) -> None:
        said = {
            "id": notification.id,
            "kind": notification.kind,
            "model": notification.model,
            "at": notification.at.isoformat(),
            "title": title(notification),
            "alerts": list(notification.alerts),
        }
        body = json.dumps(said).encode()
        headers = {"Idempotency-Key": notification.id}
        if self._receiver.secret:
            secret = self._receiver.secret_of("secret").encode()
            headers["Bascule-Signature"] = signature(secret, body, int(time.time()))
        post(self._receiver, "", body, headers)


def signature(secret: bytes, body: bytes, at_s: int) -> str:
    """The value of `Bascule-Signature`."""
    made = hmac.new(secret, b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={made}"
