"""The scribe of a server: `python -m bascule.monitoring.ledger HOME MAX_BYTES DAYS PARENT_PID`.

It ends, when it has taken in the spool, by SIGTERM, which the end of its parent sends as well.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

from bascule.core import BasculeError
from bascule.monitoring.ledger import (
    CATALOGUE_VARIABLE,
    Chore,
    Compaction,
    Deletions,
    Leader,
    Retention,
    Scribe,
    Sharing,
    host_of,
    shared_of,
)

_PDEATHSIG = 1


def main() -> int:
    """Run the scribe of a home; the exit code is 3 where another one has its lock."""
    home, max_bytes, retention_days, parent = Path(sys.argv[1]), *map(int, sys.argv[2:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s scribe: %(message)s")
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        stopping.set()
    try:
        scribe = Scribe(
            home,
            retention=Retention(max_bytes, retention_days),
            chores=_chores(home, Retention(max_bytes, retention_days)),
        )
    except BasculeError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- in one line
        return 3
    try:
        scribe.run(stopping)
    except (OSError, BasculeError) as error:
        # The supervisor starts the next one, which removes what this one has not committed.
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- in one line
        return 4
    scribe.close()
    return 0


def _chores(home: Path, retention: Retention) -> list[Chore]:
    """What this scribe does beside; its part of the shared ledger where hosts share one."""
    if (store := shared_of(home)) is None:
        return [Deletions(), Compaction()]
    from bascule.catalogue import Catalogue, Leases

    place, url = json.loads(os.environ[CATALOGUE_VARIABLE])
    module, _, name = place.partition(":")
    catalogue = Catalogue(getattr(import_module(module), name)(url, home))
    leader = Leader(Leases(catalogue), host_of(home))
    return [Deletions(), Sharing(store, retention=retention, may_lead=leader)]


if __name__ == "__main__":
    sys.exit(main())
