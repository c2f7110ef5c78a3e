"""Mail over SMTP: a plain text, to all addresses of the receiver."""

from __future__ import annotations

import logging
import smtplib
import ssl
import time
from email.message import EmailMessage
from email.utils import format_datetime

from bascule.monitoring.alerts.routing import Notification
from bascule.monitoring.alerts.sinks.receivers import Receiver, Sink
from bascule.monitoring.alerts.sinks.words import lines, title
from bascule_client.deadlines import DeadlineSocket, DeadlineTlsSocket, connected

log = logging.getLogger(__name__)


class Mail(Sink):
    """See `Sink`."""

    def send(self, notification: Notification) -> None:
        receiver = self._receiver
        password = receiver.secret_of("password") if receiver.user else ""
        try:
            message = _message(notification, receiver)
        except (ValueError, IndexError):
            raise receiver.wrong("to", "an address there or in sender is not one") from None
        try:
            with self._connected() as server:
                if receiver.user:
                    server.login(receiver.user, password)
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            # The text of an error of the login may quote what was sent.
            said = "" if isinstance(error, smtplib.SMTPAuthenticationError) else f": {error}"
            raise receiver.away(f"{type(error).__name__}{said}") from None
        if refused:  # others have it: a second attempt would send it to them again
            log.warning("%s: the mail server refuses %s", receiver.name, ", ".join(refused))

    def _connected(self) -> smtplib.SMTP:
        receiver = self._receiver
        context = ssl.create_default_context()
        server = _Server(receiver, context if receiver.security == "tls" else None)
        if receiver.security == "starttls":
            try:
                server.secure(context)
            except BaseException:
                server.close()
                raise
        return server


class _Server(smtplib.SMTP):
    """A mail server with one deadline for all that it is asked."""

    sock: DeadlineSocket

    def __init__(self, receiver: Receiver, tls: ssl.SSLContext | None) -> None:
        self._ends_s = time.monotonic() + receiver.timeout_s
        self._tls = tls
        super().__init__(receiver.host, receiver.port)

    def _get_socket(self, host: str, port: int, *_: object) -> DeadlineSocket:
        return connected(host, port, self._ends_s, self._tls)

    def secure(self, context: ssl.SSLContext) -> None:
        context.sslsocket_class = DeadlineTlsSocket
        self.starttls(context=context)
        self.sock.ends_s = self._ends_s


def _message(notification: Notification, receiver: Receiver) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = f"[bascule] {title(notification)}"
    message["From"] = receiver.sender
    message["To"] = ", ".join(receiver.to)
    message["Date"] = format_datetime(notification.at)
    # The same for each attempt: mail programs show one of them.
    message["Message-ID"] = f"<{notification.id}@bascule>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n\n".join("\n".join(lines(alert)) for alert in notification.alerts))
    return message
