"""Pages that look into production, with their work done in the tests' process."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.consoles import CountedServer, browsing, control
from tests.production import Day, fill, packed

from bascule.app import open_alerts, open_catalogue, open_registry, open_rollouts
from bascule.catalogue import Leases
from bascule.cli.console_work import answer
from bascule.cli.judging import measured
from bascule.control.batch_runs import BatchRunner
from bascule.core import BasculeError
from bascule.monitoring.alerts import Finding, Observation, Routing, Rules
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings

WAIT_S = 60.0


def one_home(folder: Path):
    """Settings of a home with two versions of `late`, four days of answers, and an endpoint."""
    settings = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    registry = open_registry(settings)
    bundles = [packed(folder / str(seed), seed=seed) for seed in (0, 1)]
    for bundle in bundles:
        registry.push(bundle.path, by="ada")
    open_rollouts(settings).deploy(RolloutRequest(version="late/1", strategy="all"), by="ada")
    days = [Day(3), Day(2), Day(1, wind=16.0, fresh=0.05), Day(0, wind=16.0)]
    fill(settings.home, bundles[0], "1", days)
    return settings


class Inline(BatchRunner):
    """Runs jobs in this process."""

    def __init__(self, settings):
        super().__init__(settings.home, lambda _: ((), b""))
        self.settings = settings

    def start(self, job, *, by, folder="", expected_run="", is_confined=False):
        asked = {"task": "run", "job": job.to_json(), "folder": folder or os.getcwd(), "by": by}
        try:
            return self.runs.get(answer(self.settings, asked)["run"])
        except BasculeError:
            found = self.runs.list()
            if not found or found[0].state != "failed":
                raise
            return found[0]  # it began, and its status says why it failed


@contextmanager
def looking(settings, client=("127.0.0.1", 5_000), **more):
    """A browser of the pages of a home."""

    def do_task(task, asked):
        return answer(settings, {**asked, "task": task})

    def measure(what, name, options):
        return measured(settings, what, name, options)

    chosen = {"do_task": do_task, "measure": measure, "batch": Inline(settings), **more}
    app = control(settings, CountedServer(settings), **chosen)
    with browsing(app, client) as pages:
        yield pages


def finished(pages) -> None:
    """Wait until nothing is under way; the work itself may have failed."""
    finished_works(pages.app.state.control.works)


def finished_works(works) -> None:
    """The same."""
    until = time.monotonic() + WAIT_S
    while any(not one.is_done for one in list(works._works.values())):
        assert time.monotonic() < until, "the work does not end"
        time.sleep(0.01)


def fire(settings, sentence="wind has moved", severity="warning"):
    """One alert of `late` that fires; its id."""
    now = datetime.now(UTC)
    finding = Finding(
        "drift", "column", "late", severity, sentence, 0.4, 0.1, now, version="1", column="wind",
        evidence="bascule drift late",
    )  # fmt: skip
    catalogue = open_catalogue(settings)
    leases = Leases(catalogue)
    lease = leases.acquire("alerts", "test", 30.0)
    seen = [Observation("drift", "", "late", (finding,))]
    open_alerts(settings).take(lease, seen, Rules(), Routing(), {}, now)
    leases.release(lease)
    return finding.id


def token_of(page: str) -> str:
    """The token in the forms of a page."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]
