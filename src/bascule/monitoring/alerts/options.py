"""What settings say of receivers and routes. Apart: settings are loaded where nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverOptions:
    """Where notifications go: a section `[alerts.receivers.NAME]`.

    `url`, `secret` and `password` may be `env:VARIABLE`, `file:PATH` or `vault:PATH#FIELD`;
    they are never shown.

    Attributes:
        kind: What takes them: a key of `SINKS`.
        url: The address of a webhook, of Slack's webhook, or of an Alertmanager.
        secret: The key of a webhook's signature.
        host: Of the mail server.
        port: Of the mail server.
        security: "starttls", "tls" from the first byte, or "none".
        user: The login at the mail server; empty for none.
        password: Of the login.
        sender: The address that mails come from.
        to: The addresses that mails go to.
        timeout_s: How long one attempt may take.
    """

    kind: Literal["webhook", "slack", "alertmanager", "mail"] = "webhook"
    url: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    host: str = ""
    port: Annotated[int, Ge(1), Le(65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    sender: str = ""
    to: tuple[str, ...] = ()
    timeout_s: Annotated[float, Gt(0), Le(30)] = 10.0


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """Which alerts go to which receivers: an entry `[[alerts.routes]]`.

    Attributes:
        receivers: Names of sections `[alerts.receivers.NAME]`.
        models: Names of models, or patterns with `*`.
        severity: The least severity.
        teams: Values of the tag `team` of models; none named is any.
    """

    receivers: tuple[str, ...] = ()
    models: tuple[str, ...] = ("*",)
    severity: Literal["info", "warning", "critical"] = "info"
    teams: tuple[str, ...] = ()
