"""Pages that look into production, with their work done in the tests' process."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests import homes
from tests.consoles import CountedServer, browsing, control
from tests.production import Day, fill, packed

from bascule.app import open_alerts, open_catalogue, open_registry, open_rollouts
from bascule.catalogue import Leases
from bascule.monitoring.alerts import Finding, Observation, Routing, Rules
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings


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


@contextmanager
def looking(settings, client=("127.0.0.1", 5_000), **more):
    """A browser of the pages of a home."""
    with browsing(control(settings, CountedServer(settings), **more), client) as pages:
        yield pages


def finished(pages) -> None:
    """Wait until nothing is under way; the work itself may have failed."""
    homes.finished(pages.app.state.control.jobs())


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


def send(pages, path, name, content, token):
    """Send a file as the script of a form does."""
    return pages.post(
        path, params={"name": name}, content=content,
        headers={"X-CSRF-Token": token, "Content-Type": "application/octet-stream"},
    )  # fmt: skip


def token_of(page: str) -> str:
    """The token in the forms of a page."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]
