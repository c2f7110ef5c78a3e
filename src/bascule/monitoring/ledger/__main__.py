"""The scribe of a server: `python -m bascule.monitoring.ledger HOME MAX_BYTES DAYS PARENT_PID`.

It ends, when it has taken in the spool, by SIGTERM, which the end of its parent sends as well. Of
several servers with one home, one scribe serves all, and the others wait for it to end.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from bascule.core import BasculeError, Conflict
from bascule.monitoring.ledger.spool import writers

_PDEATHSIG = 1
_EVERY_S = 1.0


def main() -> int:
    """Run the scribe of a home; the exit code is 3 where its ledger cannot be opened."""
    home, max_bytes, retention_days, parent = Path(sys.argv[1]), *map(int, sys.argv[2:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s scribe: %(message)s")
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        stopping.set()
    is_last = False
    while not is_last:
        is_last = stopping.wait(_EVERY_S)
        if not any(writer.files() for writer in writers(home)):
            continue
        # Imported when there is something to write: a server that nobody asks has no use for it.
        from bascule.monitoring.ledger import Retention, Scribe

        try:
            scribe = Scribe(home, retention=Retention(max_bytes, retention_days))
        except Conflict:
            continue
        except BasculeError as error:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 -- in one line
            return 3
        scribe.run(stopping, _EVERY_S)
        scribe.close()
        break
    return 0


if __name__ == "__main__":
    sys.exit(main())
