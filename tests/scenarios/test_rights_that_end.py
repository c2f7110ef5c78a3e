"""A right that ends: the table of rights x what was begun by them x how they end, on one server.

Everything ends within a second, but for jobs: those belong to the catalogue from their beginning.
One row of each right is in the first tier, the whole table in the second.
"""

import json
import re
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import httpx
import pytest
from tests.pace import slowness_of_starts
from tests.scenarios.commands import bascule
from tests.tiers import first_of
from tests.waiting import until

from bascule.app import (
    open_catalogue,
    open_endpoints,
    open_keys,
    open_registry,
    open_repository,
    open_sessions,
)
from bascule.core import Unauthenticated
from bascule.fleet import key_in
from bascule.jobs import Schedules
from bascule.security import Permission, permissions_of_role
from bascule.security.keys import GRANTABLE
from bascule.settings import load_settings

pytestmark = pytest.mark.serial

WITHIN_S = 1.0
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = b"\x3a\x00"

ROLES = {
    "read": "viewer", "approve": "approver", "metrics": "admin", "keys": "admin",
    "review": "reviewer", "erase": "admin", "private": "admin", "report": "admin",
}  # fmt: skip
"""The role by which a link has a right; of others the operator."""

ACTS = {
    "infer": ("POST", "/v2/models/gb/infer", ...),
    "test": ("POST", "/v2/models/gb/infer", ...),
    "read": ("GET", "/api/v1/models/gb", None),
    "metrics": ("GET", "/metrics", None),
    "manage": ("POST", "/v2/repository/models/nowhere/load", None),
    "download": ("GET", "/api/v1/models/gb/versions/1/bundle", None),
    "write": ("PATCH", "/api/v1/models/gb/versions/1/tags", {"team": "risk"}),
    "deploy": ("POST", "/api/v1/endpoints/nowhere/rollback", {"reason": "x"}),
    "approve": ("POST", "/api/v1/rollouts/nowhere/promote", {}),
    "keys": ("GET", "/api/v1/keys", None),
    "outcome": ("GET", "/api/v1/models/gb/outcomes", None),
    "review": ("GET", "/api/v1/models/gb/reviews", None),
    "erase": ("POST", "/api/v1/subjects/find", {}),
    "private": ("POST", "/api/v1/subjects/export", {}),
    "report": ("POST", "/api/v1/edge/reports", {"reports": []}),
}
"""By right: what takes it. `...` stands for rows to predict, on the port for predictions."""
ON_DATA_PLANE = ("infer", "test")


@dataclass
class Here:
    """A server that asks for keys, and its catalogue."""

    server: object
    settings: object
    rows: bytes

    @property
    def keys(self):
        return open_keys(self.settings)

    @property
    def control(self):
        return f"http://127.0.0.1:{self.server.control_port}"

    @property
    def cookie(self):
        return f"bascule-{self.server.control_port}"

    def key(self, *permissions):
        """A new key that the server knows, and its header."""
        name = f"k{time.monotonic_ns()}"
        key, token = self.keys.create(name, list(permissions), by="root")
        header = {"Authorization": f"Bearer {token}"}
        plane = f"http://127.0.0.1:{self.server.port}/v2/models/nowhere"
        for place in (f"{self.control}/api/v1/models/gb", plane):
            until(lambda place=place: httpx.get(place, headers=header).status_code != 401)
        return key, header

    def link(self, header, role):
        """The code of a link that a caller makes."""
        made = httpx.post(
            f"{self.control}/api/v1/sign-in-links", json={"roles": [role]}, headers=header
        )
        assert made.status_code == 201, made.text
        return made.json()["path"].partition("=")[2]

    def browser(self, code):
        """A client with the session of a link, and the token of its pages."""
        used = httpx.post(f"{self.control}/sign-in", data={"code": code})
        assert used.status_code == 303, used.text
        cookies = {self.cookie: used.cookies[self.cookie]}
        told = httpx.get(f"{self.control}/api/v1/session", cookies=cookies).json()
        return httpx.Client(cookies=cookies, headers={"X-CSRF-Token": told["csrf_token"]})

    def ask(self, client, right, **more):
        """The status of what takes a right."""
        method, path, body = ACTS[right]
        on_data = right in ON_DATA_PLANE
        base = f"http://127.0.0.1:{self.server.port}" if on_data else self.control
        if right == "test":
            more = {**more, "headers": {**more.get("headers", {}), "Bascule-Arm": "current"}}
        sent = {"content": self.rows} if body is ... else {"json": body}
        return client.request(method, base + path, **sent, **more).status_code


@pytest.fixture(scope="module")
def here(start, cancer_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rights")
    settings = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    open_registry(settings).push(cancer_bundle, by="root")
    open_endpoints(settings).deploy("gb/1", by="root")
    server = start(
        "gb/1", "--grpc-port=0",
        env={
            "BASCULE_HOME": str(folder / "home"), "BASCULE_SECURITY__CALLERS": "keys",
            "BASCULE_BATCH__PLACES": json.dumps([str(folder)]),
        },
    )  # fmt: skip
    rows = (cancer_bundle / "data/example.json").read_bytes()
    try:
        yield Here(server, settings, rows)
    finally:
        server.process.stdout.close()
        server.end()


# -- how a right ends --


def revoked(here, key):
    here.keys.end(key.id, by="root")


def expired(here, key):
    here.keys.change(key.id, key.permissions, expires_at=datetime.now(UTC), by="root")


def lowered(here, key):
    """By `bascule apply`: the key is live, and has another right alone."""
    left = [Permission("outcome", "other")]
    here.keys.change(key.id, left, expires_at=None, by="root")


def session_ended(here, key):
    """By an administrator."""
    for session in open_sessions(here.settings).live():
        if session.key is not None and session.key.id == key.id:
            bascule(here.settings.home, "sessions", "end", session.short_id)


# -- what is begun by a right: each gives what says whether it still opens anything --


def by_key(here, header, right, stack):
    client = stack.enter_context(httpx.Client(headers=header))  # one connection
    return lambda: here.ask(client, right) not in (401, 403)


def by_session(here, header, right, stack):
    code = here.link(header, ROLES.get(right, "operator"))
    browser = stack.enter_context(here.browser(code))
    return lambda: here.ask(browser, right) not in (401, 403)


def by_link(here, header, right, stack):
    code = here.link(header, ROLES.get(right, "operator"))

    def is_good():
        try:
            return bool(open_sessions(here.settings).offered(code))
        except Unauthenticated:
            return False

    return is_good


def by_page(here, header, right, stack):
    """The stream of events of a page that is open."""
    browser = here.browser(here.link(header, ROLES.get(right, "operator")))
    stack.enter_context(browser)
    stream = stack.enter_context(browser.stream("GET", f"{here.control}/changes", timeout=30))
    assert stream.status_code == 200
    ended = threading.Event()

    def read():
        with suppress(httpx.HTTPError):
            for _ in stream.iter_raw():
                pass
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    return lambda: not ended.is_set()


def by_stream(here, header, right, stack):
    """A gRPC stream over one HTTP/2 connection, which a message is sent on each time."""
    place = f"127.0.0.1:{here.server.grpc_port}"
    channel = stack.enter_context(grpc.insecure_channel(place))
    asked, sent = [], threading.Condition()

    def messages():
        while True:
            with sent:
                sent.wait_for(lambda: asked)
                message = asked.pop()
            if message is None:
                return
            yield message

    metadata = [("authorization", header["Authorization"])]
    stream = channel.stream_stream(REFLECTION)(messages(), metadata=metadata, timeout=30)

    def say(message):
        with sent:
            asked.append(message)
            sent.notify()

    def is_answered():
        say(LIST_SERVICES)
        try:
            return b"GRPCInferenceService" in next(stream)
        except grpc.RpcError as refused:
            return refused.code().name not in ("UNAUTHENTICATED", "PERMISSION_DENIED")

    stack.callback(say, None)
    return is_answered


KEYS, SESSIONS = (revoked, expired, lowered), (revoked, expired, lowered, session_ended)
BEGUN = {
    by_key: KEYS, by_session: SESSIONS, by_link: (revoked, expired), by_page: SESSIONS,
    by_stream: (revoked, expired),
}  # fmt: skip
"""By what is begun, how it ends. What is left of a lowered key is left of its links, and a stream
of gRPC is answered to every live key."""
FIRST = {
    ("infer", by_key, revoked), ("test", by_key, lowered), ("read", by_stream, revoked),
    ("metrics", by_session, revoked), ("manage", by_session, expired),
    ("download", by_session, session_ended), ("write", by_session, lowered),
    ("deploy", by_page, session_ended), ("approve", by_session, session_ended),
    ("keys", by_session, revoked), ("outcome", by_link, expired),
    ("review", by_key, revoked), ("erase", by_key, revoked), ("private", by_key, revoked),
    ("report", by_key, revoked),
}  # fmt: skip
TABLE = [
    pytest.param(
        right, begun, end, id=f"{right}-{begun.__name__}-{end.__name__}",
        marks=() if (right, begun, end) in FIRST else pytest.mark.slow,
    )
    for right in GRANTABLE
    for begun, ends in BEGUN.items()
    for end in ends
    if begun in (by_key, by_link, by_page, by_stream) or right not in ON_DATA_PLANE
]  # fmt: skip


def test_the_first_tier_has_a_row_of_each_right_and_of_each_begun_thing_and_end():
    assert {right for right, _, _ in FIRST} == set(GRANTABLE) == set(ACTS)
    assert {begun for _, begun, _ in FIRST} == set(BEGUN)
    assert {end for _, _, end in FIRST} == set(SESSIONS)


@pytest.mark.parametrize(("right", "begun", "end"), TABLE)
def test_what_was_begun_by_a_right_ends_with_it(here, right, begun, end):
    role = permissions_of_role(ROLES.get(right, "operator"))
    key, header = here.key(*role)
    with ExitStack() as stack:
        opens = begun(here, header, right, stack)
        assert opens()

        end(here, key)
        ended_s = time.monotonic()
        until(lambda: not opens(), 10.0)

        took_s = time.monotonic() - ended_s
        assert took_s <= WITHIN_S or took_s <= WITHIN_S * slowness_of_starts()
        assert not opens()


@pytest.mark.parametrize("end", first_of([revoked, expired]), ids=["revoked", "expired"])
def test_a_job_that_a_key_began_goes_on_and_the_key_commands_it_no_more(here, end):
    """The rule: a schedule, a run and a rollout belong to the catalogue from their beginning."""
    key, header = here.key(*permissions_of_role("operator"))
    name = f"nightly-{key.id}"
    folder = here.settings.home.parent
    job = {"model": "gb/1", "from": f"{folder}/in.parquet", "to": f"{folder}/out"}
    body = {"name": name, "cron": "0 3 * * *", "job": job}
    place = f"{here.control}/api/v1/schedules"
    made = httpx.post(place, json=body, headers=header)
    assert made.status_code == 201, made.text

    end(here, key)
    until(lambda: httpx.delete(f"{place}/none", headers=header).status_code == 401)

    assert httpx.delete(f"{place}/{name}", headers=header).status_code == 401
    schedules = Schedules(open_catalogue(here.settings))
    assert name in [one.schedule.name for one in schedules.list()]
    _, other = here.key(*permissions_of_role("operator"))
    assert httpx.delete(f"{place}/{name}", headers=other).status_code == 200
    assert name not in [one.schedule.name for one in schedules.list()]


def test_a_body_that_is_still_sent_when_the_key_ends_changes_nothing(here):
    """The key was good when the head came."""
    key, header = here.key(*permissions_of_role("operator"))
    body = json.dumps({"late": "yes"}).encode()

    def pieces():
        yield body[:5]
        revoked(here, key)
        time.sleep(1.5)  # the body takes longer than a second: its right is asked again
        yield body[5:]

    place = f"{here.control}/api/v1/models/gb/versions/1/tags"
    sent = {**header, "Content-Type": "application/json"}
    answer = httpx.patch(place, content=pieces(), headers=sent)

    assert answer.status_code == 401, answer.text
    assert "late" not in open_registry(here.settings).tags("gb/1")


def test_sessions_are_listed_and_ended_over_the_server(here):
    key, header = here.key(*permissions_of_role("admin"))
    browser = here.browser(here.link(header, "viewer"))
    token = header["Authorization"].partition(" ")[2]
    words = {"BASCULE_KEY": token, "BASCULE_SERVER": here.control}

    found = bascule(here.settings.home, "sessions", "list", **words)
    (own,) = [one for one in found if one["key"] == key.name]
    bascule(here.settings.home, "sessions", "end", own["id"], **words)

    assert here.ask(browser, "read") in (401, 403)
    assert re.fullmatch("[0-9a-f]{12}", own["id"])
    browser.close()


def test_a_person_tries_a_model_by_the_session_and_not_after_its_end(here):
    """No key is typed in: the right of the session decides, at each request."""
    key, header = here.key(*permissions_of_role("operator:gb"))
    with here.browser(here.link(header, "operator:gb")) as browser:
        page = browser.get(f"{here.control}/try/gb").text
        assert 'name="key"' not in page
        form = dict(re.findall(r'<input [^>]*name="(in[.][^"]+)" [^>]*value="([^"]*)"', page))
        answer = browser.post(f"{here.control}/try/gb", data=form)
        assert "answered in" in answer.text, answer.text
        revoked(here, key)
        until(lambda: browser.post(f"{here.control}/try/gb", data=form).status_code != 200)


def test_a_device_that_is_revoked_reports_no_more_on_the_connection_that_it_has(here):
    place, name = f"{here.control}/api/v1/edge", f"camera-{time.monotonic_ns()}"
    root_key = key_in(here.settings.home / "root.pem", create=True)
    open_repository(here.settings, is_new=True).init([root_key], 1)
    _, header = here.key(Permission("keys"))
    enrolled = httpx.post(
        f"{place}/devices", json={"device": name, "group": "stable"}, headers=header
    )
    assert enrolled.status_code == 201, enrolled.text
    report = {"device": name, "sequence": 1, "at": "", "event": "counts"}

    with httpx.Client(headers={"Authorization": f"Bearer {enrolled.json()['key']}"}) as device:

        def status(reports):
            return device.post(f"{place}/reports", json={"reports": reports}).status_code

        until(lambda: status([report]) == 200)
        assert status([{**report, "device": "another"}]) == 404
        assert device.get(f"{place}/devices").status_code == 403
        bascule(here.settings.home, "edge", "revoke", name)
        ended_s = time.monotonic()
        until(lambda: status([{**report, "sequence": 2}]) == 401, 10.0)

        took_s = time.monotonic() - ended_s
        assert took_s <= WITHIN_S or took_s <= WITHIN_S * slowness_of_starts()
