"""What tests of the console share: a home with models, an endpoint and rollouts, and its pages."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from tests.controls import control_app
from tests.homes import inline_jobs

from bascule.app import (
    open_alerts,
    open_catalogue,
    open_fleet,
    open_registry,
    open_rollouts,
    rollout_defaults,
)
from bascule.console.site import add_console
from bascule.control.loops.rollouts import RolloutRunner
from bascule.endpoints import EndpointStore
from bascule.release.rollouts import RolloutRequest
from bascule.serving import ModelSpec
from bascule.serving.telemetry import BUCKETS_S, ArmTotals, MetricLabels, Totals
from bascule.serving.telemetry.counters import Pulse
from bascule.serving.workers import WorkerStatus

LOOPBACK = ("127.0.0.1", 5_000)


@dataclass
class CountedServer:
    """A server that serves the newest plan of every endpoint, and counts what `answer` says.

    Attributes:
        settings: Of the catalogue.
        bad_every: Of the candidate's answers, each so-many-th fails; 0 for none.
        is_alive: Whether its worker answers.
    """

    settings: object
    bad_every: int = 0
    is_alive: bool = True
    counted: dict = field(default_factory=dict)
    address = "127.0.0.1", 8080
    token = ""

    def _plans(self):
        return EndpointStore(open_catalogue(self.settings))

    @property
    def plans(self):
        return tuple(one.current.plan for one in self._plans().endpoints())

    @property
    def services(self):
        versions = dict.fromkeys(one for plan in self.plans for one in plan.versions)
        return tuple(
            ModelSpec(*one.split("/"), Path("/nowhere"), is_planned=True) for one in versions
        )

    @property
    def labels(self):
        return [MetricLabels(), *(MetricLabels(one.model, one.version) for one in self.services)]

    def totals(self):
        made = [Totals({404: 1}, 0, 0.1, (1,) + (0,) * len(BUCKETS_S))]
        for one in self.services:
            counts = [v for k, v in self.counted.items() if k[3] == f"{one.model}/{one.version}"]
            requests, errors = (sum(v[at] for v in counts) for at in (0, 1))
            buckets = (0, 0, requests) + (0,) * (len(BUCKETS_S) - 2)
            made.append(Totals({200: requests - errors, 500: errors}, requests, 1.0, buckets))
        return made

    def answer(self, requests):
        """Answer so many requests by each plan's shares."""
        for plan in self.plans:
            for arm in plan.arms:
                asked = int(requests * arm.share_percent / 100)
                bad = asked // self.bad_every if self.bad_every and arm.name == "candidate" else 0
                key = (plan.endpoint, plan.number, arm.name, arm.version)
                before = self.counted.get(key, (0, 0))
                self.counted[key] = (before[0] + asked, before[1] + bad)

    def arm_totals(self, _compared=""):
        return [
            ArmTotals(
                endpoint=key[0], plan_number=key[1], arm=key[2], version=key[3], requests=value[0],
                errors=value[1], fallbacks=0, slower=(), slower_than_s=(), rows=value[0],
                disagreements=0, dropped=0,
            )
            for key, value in self.counted.items()
        ]  # fmt: skip

    def pulse(self):
        return Pulse()

    def models(self):
        return []

    def statuses(self):
        return [WorkerStatus(worker=0, pid=7, alive=self.is_alive, restarts=0)]


def control(settings, server, guard=None, **more):
    """The control application of a catalogue, with the console."""
    more.setdefault("jobs", inline_jobs(settings))
    app = control_app(
        server, partial(open_registry, settings), lambda _: None, guard,
        open_endpoints=lambda: EndpointStore(open_catalogue(settings)),
        open_catalogue=partial(open_catalogue, settings),
        rollout_defaults=rollout_defaults(settings), open_alerts=partial(open_alerts, settings),
        open_fleet=partial(open_fleet, settings),
        home=settings.home, **more,
    )  # fmt: skip
    add_console(app)
    return app


class Browser:
    """A client of the pages, with cookies; it follows no redirect.

    Attributes:
        app: The application.
        cookies: Those that it has.
    """

    def __init__(self, app, client):
        self.app = app
        transport = httpx.ASGITransport(app, client=client)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8082")
        self.cookies = self._client.cookies

    def request(self, method, path, **more):
        return asyncio.run(self._client.request(method, path, **more))

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, **more):
        return self.request("POST", path, **more)


@contextmanager
def browsing(app, client=LOOPBACK):
    """A browser at an address, by default on the machine of the server."""
    yield Browser(app, client)


def token_of(page: str) -> str:
    """The token in the forms of a page."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]


def roll_out(settings, server, candidate, *, turns=1, requests=8_000, **asked):
    """A rollout, and so many turns of its controller with requests in between; its id."""
    request = RolloutRequest(
        **{
            "version": candidate,
            "strategy": "canary",
            "guards": ("errors +1 pp",),
            "step_s": 0.0,
            "steps_percent": (10.0, 50.0, 100.0),
            "reason": "fewer misses",
            **asked,
        }
    )
    book = open_rollouts(settings)
    begun = book.begin(request, by="ada")
    runner = RolloutRunner(server, open_catalogue(settings), lambda *_: [])
    for _ in range(turns):
        runner.turn()
        server.answer(requests)
    runner.leadership.release()  # for the controller of another rollout
    return begun.rollout.id
