"""The scribe of a server: `python -m bascule.monitoring.ledger HOME MAX_BYTES DAYS PARENT_PID`.

SIGTERM makes it take in the spool and end. The kernel sends SIGTERM when the parent ends. Where
several servers have one home, one scribe takes in all spools, and the others wait until it ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.core import BasculeError, Conflict, SignalEvent, end_with, load_named
from bascule.monitoring.ledger.spool import writers

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Chore, Scribe

_EVERY_S = 1.0


def main() -> int:
    """Run the scribe of a home; the exit code is 3 where its ledger cannot be opened."""
    home, max_bytes, retention_days, parent = Path(sys.argv[1]), *map(int, sys.argv[2:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s scribe: %(message)s")
    stopping = SignalEvent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if not end_with(parent, signal.SIGTERM):
        stopping.set()
    is_last = False
    while not is_last:
        is_last = stopping.wait(_EVERY_S)
        if not any(writer.files() for writer in writers(home)):
            continue
        try:
            scribe = _open(home, max_bytes, retention_days)
        except Conflict:
            continue
        except BasculeError as error:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- in one line
            return 3
        return _run(scribe, stopping)
    return 0


def _open(home: Path, max_bytes: int, days: int) -> Scribe:
    """The scribe with its chores; with those of a shared ledger where hosts share one."""
    # Imported when there is something to write: a server without requests has no use for it.
    from bascule.monitoring.ledger import (
        CATALOGUE_VARIABLE,
        DAYS_KEPT_VARIABLE,
        Compaction,
        Deletions,
        Leader,
        OutcomeUpkeep,
        Retention,
        Scribe,
        Sharing,
        Trimming,
        host_of,
        shared_of,
    )  # fmt: skip

    retention = Retention(max_bytes, days)
    days_kept = json.loads(os.environ.get(DAYS_KEPT_VARIABLE, "{}"))
    trimming = Trimming(days_kept) if days_kept else None
    place_and_url = os.environ.get(CATALOGUE_VARIABLE)
    if place_and_url is None or (store := shared_of(home)) is None:
        chores: list[Chore] = [Deletions(), Compaction(), OutcomeUpkeep()]
        chores += [trimming] if trimming is not None else []
        return Scribe(home, retention=retention, chores=chores)
    from bascule.catalogue import Catalogue, Leases

    place, url = json.loads(place_and_url)
    catalogue = Catalogue(load_named(place)(url, home))
    leader = Leader(Leases(catalogue), host_of(home))
    chore = Sharing(store, retention=retention, may_lead=leader, trimming=trimming)
    return Scribe(home, retention=retention, chores=[chore])


def _run(scribe: Scribe, stopping: threading.Event) -> int:
    try:
        scribe.run(stopping, _EVERY_S)
    except (OSError, BasculeError) as error:
        # The supervisor starts the next one, which removes what this one has not committed.
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- in one line
        return 4
    scribe.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
