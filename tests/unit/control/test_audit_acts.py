"""Every write of the operations table is in the audit chain, and who tried it without the right."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.control.signed_in import site_of
from tests.unit.registry.conftest import write_bundle

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import events, origins, sealing
from bascule.control import Asked, History
from bascule.control.api.rights import OPERATIONS
from bascule.core import Refused
from bascule.endpoints import EndpointStore
from bascule.jobs import JobRunner
from bascule.kinds import KINDS
from bascule.monitoring.alerts import AlertStore
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.settings import load_settings

ACTS = {name: operation for name, operation in OPERATIONS.items() if operation.is_act}
READS_BY_POST = {
    "POST /v2/repository/index", "POST /api/v1/verdicts/{endpoint}", "POST /api/v1/edge/reports",
}  # fmt: skip
ALIAS, VERSION = "models/gb/aliases/best", "models/gb/versions/1"
SOON = (datetime.now(UTC) + timedelta(days=1)).isoformat()
JOB = {"model": "gb/1", "from": "/nowhere/in.csv", "to": "/nowhere/out/"}
SCHEDULE = {"name": "nightly", "cron": "0 2 * * *", "job": JOB}
RUN = {"version": "gb/2", "endpoint": "gb", "strategy": "canary", "guards": ["errors +1 pp"]}
SCENARIO = [
    ("PUT", ALIAS, {"number": 1, "reason": "it is better"}),
    ("DELETE", ALIAS, None),
    ("PATCH", f"{VERSION}/tags", {"team": "risk"}),
    ("PUT", f"{VERSION}/deprecation", {"reason": "old"}),
    ("DELETE", f"{VERSION}/deprecation", None),
    ("PUT", f"{VERSION}/retirement", {"reason": "old"}),
    ("DELETE", f"{VERSION}/retirement", None),
    ("POST", "endpoints", {"name": "gb", "version": "gb/1"}),
    ("PATCH", "endpoints/gb", {"sticky_header": "x-user"}),
    ("POST", "rollouts", RUN),
    ("POST", "rollouts/gb/pause", {"reason": "look"}),
    ("POST", "rollouts/gb/promote", {"reason": "good"}),
    ("POST", "endpoints/gb/rollback", {"reason": "back"}),
    ("POST", "endpoints/gb/plans", {"version": "gb/2", "reason": "next"}),
    ("POST", "deployments", {"version": "gb/1", "endpoint": "gb"}),
    ("DELETE", "endpoints/gb?reason=old", None),
    ("POST", "keys", {"name": "web", "permissions": ["read:gb"]}),
    ("DELETE", "keys/web", None),
    ("POST", "silences", {"until": SOON, "why": "quiet"}),
    ("DELETE", "silences/{id}", None),
    ("POST", "schedules", SCHEDULE),
    ("POST", "schedules/nightly/pause", {"reason": "moved"}),
    ("DELETE", "schedules/nightly", None),
    ("POST", "jobs", {"kind": "batch", "input": JOB}),
    ("POST", "jobs/{id}/cancel", None),
    ("POST", "models/gb/outcomes", {"outcomes": [{"id": "0" * 32, "truth": 1}]}),
    ("DELETE", "session", None),
]


class Waiting:
    """A child that does nothing until it is stopped."""

    def __init__(self, place, task):
        self._stopped = threading.Event()

    def answer(self, take=None):
        self._stopped.wait(60)
        raise Refused("the job was cancelled")

    def stop(self, within_s):
        self._stopped.set()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    made = load_settings(environ={"BASCULE_HOME": str(folder)})
    with origins.acting(origins.Origin("bascule push", address="host-1")):
        for content in (b"1", b"2"):
            bundle = write_bundle(folder / content.decode(), "gb", content)
            open_registry(made).push(bundle, by="root")
    return made


@pytest.fixture(scope="module")
def site(settings, tmp_path_factory):
    catalogue = open_catalogue(settings)
    return site_of(
        tmp_path_factory.mktemp("site"), open_registry(settings), catalogue,
        open_keys=lambda: CatalogueKeys(Records(catalogue)), home=settings.home,
        open_endpoints=lambda: EndpointStore(catalogue),
        open_alerts=lambda: AlertStore(catalogue),
        jobs=JobRunner(catalogue, KINDS, Waiting), places=("/nowhere",),
    )  # fmt: skip


def recorded(settings):
    with open_catalogue(settings).read() as connection:
        return events.find(connection)


def history(settings, asked, *, limit=9, with_keys=True):
    return History(lambda: open_catalogue(settings)).page(asked, limit=limit, with_keys=with_keys)


def name_of(method, path):
    """The operation of a request."""
    for name in OPERATIONS:
        verb, _, pattern = name.partition(" ")
        if verb == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path):
            return name
    raise AssertionError(path)


def test_what_changes_nothing_is_no_act():
    others = {name for name, one in OPERATIONS.items() if one.method != "GET"} - set(ACTS)
    assert others == READS_BY_POST


def test_every_act_that_a_key_may_not_do_is_recorded_with_the_key(site, settings):
    client, refused = site.with_key("metrics"), set()
    for name in ACTS:
        method, path = name.split(" ")
        path = path.format_map(dict.fromkeys(re.findall(r"\{(\w+)\}", path), "gb"))
        path = path.replace("versions/gb", "versions/1")
        answer = client.request(method, path, json={})
        if answer.status_code == 403:
            refused.add(name)
    wrong = [event for event in recorded(settings) if event.kind == "refused"]

    assert refused == {name for name, one in ACTS.items() if one.action is not None}
    assert {event.body["operation"] for event in wrong} == refused
    assert {event.actor for event in wrong} == {"k0"}


def test_each_write_leaves_an_entry_with_where_it_came_from(site, settings):
    admin, names = site.signed_in("admin", user="ada"), {"id": ""}
    for method, path, body in SCENARIO:
        target, before = f"/api/v1/{path.format_map(names)}", len(recorded(settings))
        answer = admin.request(method, target, json=body, headers={"X-Request-ID": "r-7"})
        assert answer.status_code < 300, (target, answer.text)
        assert len(recorded(settings)) > before, target
        names = {"id": answer.json().get("id", "")}
        (newest,) = history(settings, Asked(), limit=1)
        assert newest.origin["via"] == name_of(method, target.partition("?")[0])
        assert (newest.by, newest.origin["request"]) == ("ada", "r-7")
        assert newest.origin["role"] == "admin:*"
        assert newest.origin["session"]

    assert sealing.verify(open_catalogue(settings).read).problems == ()


def test_commands_say_which_and_where(settings):
    acts = history(settings, Asked(kind="pushed"))
    assert [act.origin for act in acts] == 2 * [{"via": "bascule push", "address": "host-1"}]
    assert all(act.origin == {} for act in history(settings, Asked(), with_keys=False))
