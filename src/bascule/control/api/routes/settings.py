"""The routes about the settings: what they say without secrets, and a trial of receivers."""

from __future__ import annotations

from fastapi import FastAPI

from bascule.control import operations as of_server
from bascule.control.answers import Receiver, ShownSettings, Trial
from bascule.control.api.conventions import Page, Paged
from bascule.control.api.rights import serves
from bascule.control.shown import SettingsShown
from bascule.core import VERSION, NotFound


def add_settings(app: FastAPI, shown: SettingsShown | None) -> None:
    """Add the routes to `app`."""

    def known() -> SettingsShown:
        if shown is None:
            raise NotFound("this server shows no settings", hint="run bascule control")
        return shown

    @serves(app, of_server.SETTINGS)
    def settings() -> ShownSettings:
        """The settings of the control process, without secrets."""
        sections = {name: dict(values) for name, values in known().sections.items()}
        return ShownSettings(VERSION, sections)

    @serves(app, of_server.RECEIVERS)
    def receivers(paged: Paged) -> Page[Receiver]:
        """The receivers of notifications, by name."""
        found = sorted(known().receivers(), key=lambda one: one.name)
        return paged.page(
            found, lambda one: one.name, lambda one: Receiver(one.name, one.kind, one.host)
        )  # fmt: skip

    @serves(app, of_server.TRY_RECEIVER)
    def test(receiver: str) -> Trial:
        """Send a notification for trial to a receiver; waits until it has taken it, or not."""
        return Trial(receiver=receiver, problem=known().try_receiver(receiver))
