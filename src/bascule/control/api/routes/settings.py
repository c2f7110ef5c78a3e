"""The routes about the settings: what they say without secrets, and a trial of receivers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from bascule.control.api.conventions import Page, Paged
from bascule.control.shown import SettingsShown
from bascule.core import VERSION, NotFound

_TAGS = "settings"


class SettingsView(BaseModel):
    """The settings of the control process."""

    version: Annotated[str, Field(description="Of Bascule")]
    sections: dict[str, dict[str, Any]]


class ReceiverView(BaseModel):
    """A receiver of notifications."""

    name: str
    kind: str
    place: Annotated[str, Field(description="The mail server; addresses of others are secrets")]


class TrialView(BaseModel):
    """What became of a notification for trial."""

    receiver: str
    problem: Annotated[str, Field(description="Empty if the receiver has taken it")]


def add_settings(app: FastAPI, shown: SettingsShown | None) -> None:
    """Add the routes to `app`."""

    def known() -> SettingsShown:
        if shown is None:
            raise NotFound("this server shows no settings", hint="run bascule control")
        return shown

    @app.get("/api/v1/settings", tags=[_TAGS])
    def settings() -> SettingsView:
        """The settings of the control process, without secrets."""
        sections = {name: dict(values) for name, values in known().sections.items()}
        return SettingsView(version=VERSION, sections=sections)

    @app.get("/api/v1/receivers", tags=[_TAGS])
    def receivers(paged: Paged) -> Page[ReceiverView]:
        """The receivers of notifications, by name."""
        found = sorted(known().receivers(), key=lambda one: one.name)
        return paged.page(
            found, lambda one: ReceiverView(name=one.name, kind=one.kind, place=one.host),
            lambda one: one.name,
        )  # fmt: skip

    @app.post("/api/v1/receivers/{receiver}/test", tags=[_TAGS])
    def test(receiver: str) -> TrialView:
        """Send a notification for trial to a receiver; waits until it has taken it, or not."""
        return TrialView(receiver=receiver, problem=known().try_receiver(receiver))
