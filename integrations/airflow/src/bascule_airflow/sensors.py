"""Waits for a run that something else has started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from bascule_airflow.hooks import RUNNING, BasculeHook, check_done


class BasculeRunSensor(BaseSensorOperator):
    """Succeeds when a run is done, and fails when it ended otherwise.

    Args:
        run: Its id, or the beginning of it.
        bascule_conn_id: The connection; see `BasculeHook`.
    """

    template_fields: Sequence[str] = ("run",)

    def __init__(
        self, *, run: str, bascule_conn_id: str = BasculeHook.default_conn_name, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.bascule_conn_id = bascule_conn_id

    def poke(self, context: Any) -> PokeReturnValue:  # noqa: ARG002 -- Airflow's interface
        """Ask the server once."""
        status = BasculeHook(self.bascule_conn_id).status(self.run)
        if status["state"] == RUNNING:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=check_done(status))
