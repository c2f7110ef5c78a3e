"""Waits for the end of a run without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from bascule_airflow.hooks import RUNNING, BasculeHook

_MAX_FAILURES = 5
"""So many times in a row a server may not answer: it may be restarted meanwhile."""


class BasculeRunTrigger(BaseTrigger):
    """Fires when a run is not running any more, with its status."""

    def __init__(
        self, run: str, bascule_conn_id: str, poll_s: float, *, trains: bool = False
    ) -> None:
        super().__init__()
        self.run_id, self.bascule_conn_id, self.poll_s = run, bascule_conn_id, poll_s
        self.trains = trains

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer makes it of."""
        arguments = {
            "run": self.run_id, "bascule_conn_id": self.bascule_conn_id, "poll_s": self.poll_s,
            "trains": self.trains,
        }  # fmt: skip
        return "bascule_airflow.triggers.BasculeRunTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask every `poll_s` seconds."""
        hook = BasculeHook(self.bascule_conn_id)
        ask = sync_to_async(lambda: hook.runs(trains=self.trains).status(self.run_id))
        failures = 0
        while True:
            try:
                # asgiref loses the message by which Airflow tells a kill from a restart.
                status = await asyncio.shield(ask())
                failures = 0
            except Exception as problem:
                failures += 1
                if failures >= _MAX_FAILURES:
                    failed = {"run": self.run_id, "state": "unknown", "error": str(problem)}
                    yield TriggerEvent(failed)
                    return
            else:
                if status["state"] != RUNNING:
                    yield TriggerEvent(status)
                    return
            await asyncio.sleep(self.poll_s)

    async def on_kill(self) -> None:
        """Stop the run too: a user has marked or cleared the deferred task. Not on restarts."""
        hook = BasculeHook(self.bascule_conn_id)
        await sync_to_async(lambda: hook.runs(trains=self.trains).cancel(self.run_id))()
