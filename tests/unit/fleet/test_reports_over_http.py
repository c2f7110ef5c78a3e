"""What a device sends, by its own outbox and errand, arrives once at the control API."""

from __future__ import annotations

import pytest
from tests.controls import Services, asking, control_app
from tests.unit.fleet.fleets import STABLE, T0, Clocked

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import Unavailable
from bascule.edge.device import Counts
from bascule.edge.reporting import Outbox, send
from bascule.edge.slots import State


def test_reports_of_an_agent_arrive_once_and_none_of_a_device_that_is_not_enrolled(tmp_path):
    (tmp_path / "outbox").mkdir()
    clocked = Clocked(Catalogue(SqliteDatabase(tmp_path / "catalogue.db")))
    clocked.enroll("camera-1")
    outbox, counts = Outbox(tmp_path / "outbox", 1 << 20), Counts()
    for failed in (False, True):
        counts.add(failed=failed)
    about = {
        "device": "camera-1", "at": "1970-01-01T00:00:00+00:00", "reason": "",
        "running": {"version": STABLE.version, "digest": STABLE.digest}, "bytes_received": 77,
    }  # fmt: skip
    state = State(device="camera-1")
    outbox.add(state, {**about, "event": "installed"})
    outbox.add(state, {**about, "event": "counts", "counts": counts.take()})
    outbox.add(state, {**about, "event": "refused", "running": None, "reason": "frozen"})
    _, files = outbox.batch(state)
    app = control_app(Services(), lambda: None, None, open_fleet=lambda: clocked.fleet)
    with asking(app) as client:
        question = {
            "server": str(client.base_url),
            "key": "none",
            "reports": [str(f) for f in files],
        }
        assert [send(question), send(question)] == [{"sequence": 3}] * 2

        device = clocked.device("camera-1")
        assert (device.version, device.bytes_received) == (STABLE.version, 3 * 77)
        plan = clocked.begin().plan
        (seen,) = clocked.fleet.seen(plan, T0, T0)
        assert seen.stayed == (2, 1)

        clocked.fleet.revoke("camera-1", by="ada")
        with pytest.raises(Unavailable, match="403"):
            send(question)
