"""The ledger of a home, as pages and routes read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import BasculeError, NotFound, Refused

if TYPE_CHECKING:
    from bascule.monitoring import Ledger, Recorded, Traffic
    from bascule.security import Action

_AGAIN_S = 0.25


class RecordedPredictions:
    """What pages and routes do with the ledger of a home."""

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._is_prepared = False

    def prepare(self) -> None:
        """Load what reads tables, and the footers of the segments, on a thread; once.

        It takes a third of a second of the first question, and 90 MB, which only processes pay
        that are about to be asked.
        """
        if not self._is_prepared:
            self._is_prepared = True
            threading.Thread(target=self._load, name="bascule-ledger", daemon=True).start()

    def _load(self) -> None:
        with suppress(BasculeError):  # which the question itself will tell
            self.ledger.ask(lambda connection: connection.execute("SELECT 1"), is_ours=True)

    def latest(
        self, model: str, *, since: datetime | None, until: datetime | None, version: str = "",
        limit: int = 25, offset: int = 0,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """See `latest_predictions`; of the last day where nothing else is said."""
        from bascule.monitoring import latest_predictions

        end = until or datetime.now(UTC) + timedelta(seconds=1)
        return latest_predictions(
            self.ledger, model, since=since or end - timedelta(days=1), until=end,
            version=version, limit=limit, offset=offset,
        )  # fmt: skip

    def find(
        self, prediction_id: str, check: Callable[[Action, str], object], *, within_s: float = 0.0
    ) -> Recorded:
        """See `find_prediction`; one that is not there yet is waited for.

        A worker writes its answers once a second, and a person may follow a link at once.

        Args:
            prediction_id: Its id.
            check: Raises `Refused` unless the reader may do this to a model.
            within_s: How long it is waited for.
        """
        from bascule.monitoring import Ledger, find_prediction  # loads what reads tables

        give_up_at_s = time.monotonic() + within_s
        while True:
            try:
                found = find_prediction(self.ledger, prediction_id)
                check("manage", str(found.facts["model"]))
                if found.is_veiled:
                    with suppress(Refused):
                        check("private", str(found.facts["model"]))
                        opened = Ledger(self.ledger.home, is_private=True)
                        return find_prediction(opened, prediction_id)
                return found
            except NotFound:
                if time.monotonic() >= give_up_at_s:
                    raise
            time.sleep(_AGAIN_S)

    def traffic(self, now: datetime) -> dict[str, Traffic]:
        """See `traffic_by_endpoint`; of no endpoint without a ledger."""
        from bascule.monitoring import traffic_by_endpoint

        if self._home is None:
            return {}
        return traffic_by_endpoint(self.ledger, now)

    @property
    def ledger(self) -> Ledger:
        from bascule.monitoring import Ledger

        if self._home is None:
            raise NotFound("this server has no ledger", hint="run bascule control, or a server")
        return Ledger(self._home)
