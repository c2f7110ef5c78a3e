"""Chooses answers for review, on a thread of the control process, never where requests wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue
    from bascule.monitoring.reviews import ReviewRule

_EVERY_S = 30.0
_FIRST_LOOK = timedelta(days=1)
"""How far back a process looks when it starts."""


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
        from bascule.monitoring.reviews import ReviewStore

        store = ReviewStore(open_catalogue(), home)
        since = dict.fromkeys(rules, datetime.now(UTC) - _FIRST_LOOK)
        while not ended.is_set():
            for model, rule in rules.items():
                since[model] = store.look(model, rule, since[model], datetime.now(UTC))
            ended.wait(_EVERY_S)

    return turning("reviews", run, after=after, pause_s=_EVERY_S)
