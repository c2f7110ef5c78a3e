"""Chooses answers for review, on a thread of the control process, never where requests wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue
    from bascule.monitoring.reviews import ReviewRule

_EVERY_S = 30.0


def choosing_reviews(
    rules: Mapping[str, ReviewRule],
    open_catalogue: Callable[[], Catalogue],
    home: Path,
    *,
    after: threading.Event,
) -> AbstractContextManager[None]:
    """Look through the ledger of the home meanwhile, where there are rules."""
    if not rules:
        return nullcontext()

    def run(ended: threading.Event) -> None:
        from bascule.monitoring import Ledger
        from bascule.monitoring.reviews import ReviewStore, choose

        store, ledger = ReviewStore(open_catalogue(), home), Ledger(home)
        place = f"{socket.gethostname()}:{home.resolve()}"
        while not ended.is_set():
            for model, rule in rules.items():
                store.look(model, place, datetime.now(UTC), partial(choose, ledger, model, rule))
            ended.wait(_EVERY_S)

    return turning("reviews", run, after=after, pause_s=_EVERY_S)
