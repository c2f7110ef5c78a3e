"""Keys on the data plane: who is let in, and that no route is without a rule."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from tests.keys import InMemory

from bascule.core.errors import Unauthenticated, Unavailable
from bascule.security.keys import OPEN_ACTIONS, Action, Permission, create_key, new_key
from bascule.serving.transports.authenticator import KEYS_SILENT_S, Authenticator, KeysFile

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE = "/v2/models/late/infer"


@pytest.fixture
def keys():
    return InMemory()


@pytest.fixture
def ring(tmp_path, keys):
    """The file of keys; `ring(permissions...)` adds a key and gives the header that shows it."""
    file = tmp_path / "keys.json"

    def write():
        file.write_text(json.dumps([key.to_json() for key in keys.stored()]))

    def make(*permissions, **more):
        _, token = create_key(
            keys, f"k{len(keys.kept)}", [Permission.parse(p) for p in permissions],
            now=datetime.now(UTC), by="ada", **more,
        )  # fmt: skip
        write()
        return f"Authorization: Bearer {token}\r\n"

    make.write = write
    make.file = file
    write()
    return make


class Granting:
    """Grants whatever callers want to have changed, and keeps it."""

    def __init__(self):
        self.granted = []

    def load(self, name, place, settle):
        self.granted.append(("load", name, place))
        settle(None)

    def unload(self, name, settle):
        self.granted.append(("unload", name))
        settle(None)


@pytest.fixture
def wishes():
    return Granting()


@pytest.fixture
def guarded(serve_models, program, inline, ring, wishes, tmp_path):
    """A server of two models that asks for keys, and whose callers load and unload."""
    running = serve_models(
        ("late", program, inline), ("early", program, inline), wishes=wishes,
        outcomes_home=tmp_path / "home",
    )  # fmt: skip
    guard = Authenticator(ring.file)

    def set_guard():
        running.site.guard = guard

    running.on_loop(set_guard)
    running.guard = guard
    return running


def status(running, method, path, headers="", body=b""):
    with running.client() as client:
        return client.request(method, path, body, headers).answer().status


def test_a_caller_with_the_right_key_is_answered_and_others_are_told_why(guarded, ring, ask):
    late = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps(ask([1, 2])).encode()

    assert status(guarded, "POST", "/v2/models/late/infer", late, body) == 200
    assert status(guarded, "POST", "/v2/models/early/infer", late, body) == 403
    with guarded.client() as client:
        answer = client.request("POST", "/v2/models/late/infer", body).answer()
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="bascule"'
    assert "Authorization: Bearer" in answer.json["error"]


def test_a_refused_request_never_reaches_the_model(guarded, program, ask):
    status(guarded, "POST", "/v2/models/late/infer", "", json.dumps(ask([1, 2])).encode())
    assert program.runs == []


def test_what_there_is_is_told_to_those_who_have_a_key(guarded, ring):
    header = ring("read:late")
    guarded.on_loop(guarded.guard.look)

    assert status(guarded, "GET", "/v2/models/nobody") == 401
    assert status(guarded, "GET", "/v2/models/nobody", header) == 404


@pytest.mark.parametrize("headers", ["", "Authorization: Bearer x\r\n", "Content-Type: a/b\r\n"])
def test_without_a_key_what_exists_is_answered_as_what_does_not(guarded, headers):
    """By any method, of any protocol, with any body: neither the path nor the method is told of."""
    paths = [
        "/v2/models/{}", "/v2/models/{}/infer", "/v2/models/{}/versions/1/infer",
        "/v2/models/{}/versions/9", "/v2/models/{}/other", "/v1/models/{}:predict",
        "/v1/models/{}/metadata", "/models/{}", "/models/{}/invoke", "/v2/models/{}/infer/?a=b",
        "http://a/v2/models/{}/infer",
    ]  # fmt: skip
    too_large = f"Content-Length: {guarded.site.limits.max_body_bytes + 1}\r\n"
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            told = []
            for model in ("late", "nobody"):
                with guarded.client() as client:
                    answer = client.request(method, path.format(model), b"", headers).answer()
                    answer.headers.pop("date")
                    answer.headers.pop("x-request-id", None)
                    told.append((answer.status, answer.headers, answer.body))
                with guarded.client() as client:
                    head = f"POST {path.format(model)} HTTP/1.1\r\nHost: a\r\n{headers}{too_large}"
                    told.append(client.send(head.encode() + b"\r\n").answer().status)
            assert told[0] == told[2], (method, path)
            assert told[0][0] == told[1] == told[3] == 401, (method, path)


def test_a_key_of_any_kind_is_told_which_methods_a_path_has(guarded, ring):
    header = ring("metrics")
    guarded.on_loop(guarded.guard.look)
    assert status(guarded, "PUT", "/v2/models/late/infer", header) == 405
    assert status(guarded, "PUT", "/v2/health/live", header) == 405


INFER = b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n"


def begun(model=b"late", headers=""):
    """The head of an inference whose body does not come."""
    return INFER % model + headers.encode() + b"Content-Length: 1000000\r\n\r\n"


class Notes:
    """A request log that keeps its records."""

    def __init__(self):
        self.notes = []

    def add(self, status, duration_ns, *rest):
        self.notes.append((status, *rest))


@pytest.mark.parametrize(("model", "expected"), [(b"early", 403), (b"late", 401), (b"nobody", 401)])
def test_who_is_not_let_in_is_told_before_the_body_and_just_as_after_it(
    guarded, ring, model, expected
):
    header = ring("infer:late") if expected == 403 else ""
    header += "Traceparent: 00-11111111111111111111111111111111-2222222222222222-01\r\n"
    request_log = Notes()

    def set_request_log():
        guarded.guard.look()
        guarded.site.request_log, guarded.site.noted_from = request_log, 400

    guarded.on_loop(set_request_log)
    with guarded.client() as client:
        early = client.send(begun(model, header)).answer()
        assert client.is_ended()
    with guarded.client() as client:
        whole = INFER % model + header.encode() + b"Content-Length: 1\r\n\r\nx"
        late = client.send(whole).answer()
        assert client.send(whole).answer().status == expected  # it has ended, and may stay

    assert (early.status, early.body) == (late.status, late.body) == (expected, late.body)
    assert early.headers.pop("connection") == "close"
    assert {**early.headers, "date": ""} == {**late.headers, "date": ""}
    assert request_log.notes[0] == request_log.notes[1]
    assert guarded.totals()[0].by_status == {expected: 3}


def test_who_is_not_let_in_is_not_told_to_go_on(guarded, ring):
    expects = "Expect: 100-continue\r\n"
    with guarded.client() as client:
        assert client.send(begun(headers=expects)).answer().status == 401
        assert client.is_ended()
    header = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    with guarded.client() as client:
        assert client.send(begun(headers=expects + header)).answer().status == 100


@pytest.mark.parametrize("path", [b"/v2/models/late/infer", b"/v2", b"/nowhere"])
def test_nothing_is_kept_of_the_body_of_who_is_not_let_in(guarded, path):
    body = b"x" * (4 << 20)
    with guarded.client() as client:
        head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        client.send(head % (len(body) + 1)).send(body)
        assert client.answer().status in (401, 405)
        assert client.is_ended()
        assert guarded.on_loop(
            lambda: [len(c._reader._body) for c in guarded.site.connections]
        ) == [0]


@pytest.mark.parametrize(("shows_key", "expected"), [(True, 200), (False, 401)])
def test_of_whole_requests_that_wait_only_the_bodies_of_who_is_let_in_are_kept(
    serve_routes, ring, shows_key, expected
):
    header, waiting = ring("read:*"), []
    running = serve_routes(
        {
            b"/later": {b"POST": waiting.append},
            b"/echo": {b"POST": lambda exchange: exchange.answer(exchange.body)},
        }
    )
    running.on_loop(lambda: setattr(running.site, "guard", Authenticator(ring.file)))
    with running.client() as client:
        client.request("POST", "/later", b"", header)
        client.request("POST", "/echo", b"x" * 5_000, header if shows_key else "")
        running.until(lambda: running.site.held.bytes)
        assert running.on_loop(lambda: running.site.held.bytes > 5_000) == shows_key
        running.on_loop(lambda: waiting[0].answer(b"go"))
        assert client.answer().body == b"go"
        answer = client.answer()
        assert answer.status == expected
        assert (answer.body == b"x" * 5_000) == shows_key
        client.request("POST", "/later", b"", header)
        running.until(lambda: len(waiting) == 2)
        assert running.on_loop(lambda: running.site.held.bytes) == 0


def test_nothing_is_kept_of_a_body_where_nobody_needs_a_key(guarded):
    with guarded.client() as client:
        client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n")
        for come in (1000, 2000):
            client.send(b"x" * 1000)
            guarded.until(lambda: guarded.site.connections)
            readers = [connection._reader for connection in guarded.site.connections]
            guarded.until(lambda: [reader.body_bytes for reader in readers] == [come])  # noqa: B023
            assert guarded.on_loop(lambda: [len(reader._body) for reader in readers]) == [0]  # noqa: B023
        assert client.send(b"x" * 1000).answer().status == 200


def test_a_refusal_before_the_body_waits_for_the_answers_before_it(guarded, ring, program, ask):
    header = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps(ask([1, 2])).encode()
    first = INFER % b"late" + header.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with guarded.client() as client:
        client.send(first + begun())
        assert [client.answer().status for _ in range(2)] == [200, 401]
        assert client.is_ended()


def test_a_head_request_without_a_key_is_refused_without_a_body(guarded):
    with guarded.client() as client:
        client.send(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert client.answer(to_head=True).status == 401
        assert client.is_ended()


def test_a_key_in_the_trailers_opens_nothing(guarded, ring, ask):
    header = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps(ask([1, 2])).encode()
    chunked = INFER % b"late" + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body
    with guarded.client() as client:
        client.send(chunked + b"\r\n0\r\n" + header.encode() + b"\r\n")
        assert client.answer().status == 401


def test_a_key_that_is_revoked_while_the_body_comes_opens_nothing(
    guarded, ring, keys, program, ask
):
    header = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps(ask([1, 2])).encode()
    with guarded.client() as client:
        head = INFER % b"late" + header.encode() + b"Content-Length: %d\r\n\r\n" % len(body)
        client.send(head + body[:9])
        guarded.until(lambda: guarded.site.held.bytes == 9)
        keys.kept.clear()
        ring.write()
        guarded.on_loop(guarded.guard.look)
        assert client.send(body[9:]).answer().status == 401
    assert program.runs == []


def test_a_bug_that_shows_before_the_body_is_answered_and_logged(guarded, caplog):
    def bug(*_):
        raise KeyError("secret")

    guarded.on_loop(lambda: setattr(guarded.site.guard, "check", bug))
    with guarded.client() as client:
        answer = client.send(begun()).answer()
        assert (answer.status, answer.json["error"]) == (
            500,
            "internal error; see the server's log",
        )
        assert client.is_ended()
    assert "secret" in caplog.text


def test_every_route_of_every_face_opens_by_its_own_right_and_by_no_other(guarded, ring):
    """The matrix is made of the routes themselves, so a new one cannot be forgotten."""
    rights = [action for action in get_args(Action) if action not in OPEN_ACTIONS]
    headers = {
        (action, model): ring(f"{action}:{model}")
        for action in rights
        for model in ("late", "early", "*")
    }
    guarded.on_loop(guarded.guard.look)
    routes = [
        (path.decode(), method.decode(), route)
        for path, methods in guarded.site.routes.items()
        for method, route in methods.items()
    ]
    assert routes
    with guarded.client() as client:
        for path, method, route in routes:
            to_head = method == "HEAD"
            without = client.request(method, path).answer(to_head=to_head).status
            assert (without == 401) == (route.action not in OPEN_ACTIONS), path
            for (action, model), header in headers.items():
                found = client.request(method, path, b"", header).answer(to_head=to_head).status
                may = route.action in OPEN_ACTIONS or Permission(action, model).covers(
                    route.action, route.model
                )
                assert (found not in (401, 403)) == may, (path, method, action, model, found)


def test_models_are_loaded_by_who_may_manage_all_and_unloaded_by_who_may_manage_them(
    guarded, ring, wishes
):
    late, every = ring("manage:late", "infer:*"), ring("manage:*")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps({"model_name": "late", "url": "/models/late"}).encode()
    json_header = "Content-Type: application/json\r\n"

    assert status(guarded, "POST", "/models", json_header, body) == 401
    assert status(guarded, "POST", "/models", late + json_header, body) == 403
    assert status(guarded, "DELETE", "/models/early", late) == 403
    assert wishes.granted == []
    assert status(guarded, "POST", "/models", every + json_header, body) == 200
    assert status(guarded, "DELETE", "/models/late", late) == 200
    assert wishes.granted == [("load", "late", "/models/late"), ("unload", "late")]


def test_every_route_says_what_it_does(guarded):
    for path, methods in guarded.site.routes.items():
        for route in methods.values():
            assert route.action in get_args(Action), path
            if route.action == "infer":
                assert route.model, path
                assert route.series is not None, path


def test_a_key_that_is_revoked_is_forgotten_at_the_next_look(guarded, ring, keys, ask):
    header = ring("infer:late")
    guarded.on_loop(guarded.guard.look)
    body = json.dumps(ask([1, 2])).encode()
    assert status(guarded, "POST", "/v2/models/late/infer", header, body) == 200

    keys.kept.clear()
    ring.write()
    guarded.on_loop(guarded.guard.look)

    assert status(guarded, "POST", "/v2/models/late/infer", header, body) == 401


def test_a_key_that_is_revoked_while_it_is_looked_up_does_not_stay_known(ring, keys, monkeypatch):
    """Another thread looks at the file meanwhile, as those of the control API do."""
    sent = ring("infer:late").partition(": ")[2].strip().encode()
    guard = Authenticator(ring.file)
    identify = guard._ring.identify

    def slow(said, now):
        key = identify(said, now=now)
        keys.kept.clear()
        ring.write()
        guard.look()
        return key

    monkeypatch.setattr(guard._ring, "identify", slow)
    guard.check(sent, "infer", "late")  # it was live when it came
    with pytest.raises(Unauthenticated):
        guard.check(sent, "infer", "late")


def test_a_key_expires_between_two_looks(ring):
    now = T0
    header = ring("infer:late", expires_at=datetime.now(UTC) + timedelta(hours=1))
    guard = Authenticator(ring.file, now=lambda: now)
    sent = header.partition(": ")[2].strip().encode()
    guard.check(sent, "infer", "late")

    now = datetime.now(UTC) + timedelta(hours=2)
    with pytest.raises(Unauthenticated, match="is expired"):
        guard.check(sent, "infer", "late")


def test_a_file_that_cannot_be_read_leaves_the_last_keys(ring, caplog):
    header = ring("infer:late")
    guard = Authenticator(ring.file)
    ring.file.write_text("[{")
    guard.look()

    guard.check(header.partition(": ")[2].strip().encode(), "infer", "late")
    assert "the last ones stay" in caplog.text


@pytest.fixture
def keys_file(tmp_path, keys):
    """`keys_file(stored, ...)`: a file that is kept up to date, and what it has said of holding."""
    stack = ExitStack()

    def keep(stored=keys.stored, **more):
        file = stack.enter_context((tmp_path / "kept").open("w+b"))
        said = []
        made = KeysFile(file.fileno(), stored, lambda read_ns: said.append(read_ns), **more)
        stack.callback(made.stop)
        made.start()
        return made, said

    with stack:
        yield keep


class Catalogue:
    """Keys that may be away, in any way."""

    def __init__(self, keys):
        self.keys = keys
        self.problem = None
        self.hangs = threading.Event()
        self.hangs.set()

    def stored(self):
        self.hangs.wait()
        if self.problem is not None:
            raise self.problem
        return self.keys.stored()


@pytest.fixture
def catalogue(keys):
    made = Catalogue(keys)
    yield made
    made.hangs.set()


def test_a_catalogue_that_is_away_leaves_the_keys_which_hold(keys, catalogue, keys_file, caplog):
    file, said = keys_file(catalogue.stored)
    before = file.path.read_bytes()
    catalogue.problem = Unavailable("the registry is away")
    _until(lambda: "the registry is away" in caplog.text)
    count, read_ns = len(said), said[-1]
    _until(lambda: len(said) > count + 2)

    assert said[-1] == read_ns  # they hold, and are as old as they are
    assert file.path.read_bytes() == before
    create_key(keys, "new", [Permission("read")], now=T0, by="ada")
    catalogue.problem = None
    _until(lambda: file.path.read_bytes() != before)
    _until(lambda: said[-1] > read_ns)
    _until(lambda: "keys are read again" in caplog.text)


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "fails"])
def test_keys_that_cannot_be_read_for_too_long_hold_no_more(catalogue, keys_file, caplog, hangs):
    _, said = keys_file(catalogue.stored, stale_s=0.5)
    if hangs:
        catalogue.hangs.clear()
    else:
        catalogue.problem = Unavailable("the registry is away")
    _until(lambda: "are refused" in caplog.text)
    count = len(said)
    assert said[-1] > 0
    time.sleep(0.5)
    assert len(said) == count
    catalogue.hangs.set()
    catalogue.problem = None
    _until(lambda: len(said) > count)


@pytest.mark.parametrize("problem", [RuntimeError("odd"), OSError(24, "too many files")])
def test_a_failure_that_is_not_the_catalogues_ends_no_thread_and_holds_no_keys(
    catalogue, keys_file, caplog, problem
):
    _, said = keys_file(catalogue.stored)
    catalogue.problem = problem
    _until(lambda: "are refused" in caplog.text)
    count = len(said)
    time.sleep(0.5)
    assert len(said) == count
    catalogue.problem = None
    _until(lambda: len(said) > count)


def test_a_file_that_cannot_be_written_holds_no_keys(keys, keys_file, caplog):
    file, said = keys_file()
    writable = os.dup(file._descriptor)
    try:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file._descriptor)
        os.close(full)
        create_key(keys, "new", [Permission("read")], now=T0, by="ada")
        _until(lambda: "are refused" in caplog.text)
        count = len(said)
        time.sleep(0.5)
        assert len(said) == count
        os.dup2(writable, file._descriptor)
        _until(lambda: len(said) > count)
        assert b"new" in file.path.read_bytes()
    finally:
        os.close(writable)


def test_a_catalogue_without_the_keys_that_it_had_is_away(keys, keys_file, caplog):
    create_key(keys, "old", [Permission("read")], now=T0, by="ada")
    file, _ = keys_file()
    keys.kept.clear()
    _until(lambda: "the catalogue of the keys is gone" in caplog.text)
    assert b"old" in file.path.read_bytes()


def test_a_store_that_is_away_at_the_start_is_an_error(catalogue, keys_file):
    catalogue.problem = Unavailable("the registry is away")
    with pytest.raises(Unavailable):
        keys_file(catalogue.stored)


def test_a_server_that_may_wait_begins_without_keys_and_holds_none_until_they_are_read(
    ring, keys, catalogue, keys_file, caplog
):
    header = ring("infer:late").partition(": ")[2].strip().encode()
    catalogue.problem = Unavailable("the registry is away")
    file, said = keys_file(catalogue.stored, may_wait=True)
    guard = Authenticator(file.path, held_ns=lambda: said[-1] if said else 0)
    guard.look()
    assert not guard.is_open
    with pytest.raises(Unavailable, match="keys cannot be checked"):
        guard.check(header, "infer", "late")
    assert "keys were never read (the registry is away) and are refused" in caplog.text
    assert said == []
    catalogue.problem = None
    _until(lambda: said)
    guard.look()
    assert guard.check(header, "infer", "late")


def test_keys_that_are_half_written_are_not_read(ring, keys, keys_file):
    """A file that is written in place may be read meanwhile."""
    header = ring("infer:late").partition(": ")[2].strip().encode()
    file, _ = keys_file()
    whole = file.path.read_bytes()
    ring.file.write_bytes(whole)
    guard = Authenticator(ring.file)
    ring.file.write_bytes(b"[]" + whole[whole.index(b"\n") :])
    guard.look()
    guard.check(header, "infer", "late")


def test_keys_that_the_supervisor_does_not_hold_open_nothing_until_it_does(ring, caplog):
    header = ring("infer:late").partition(": ")[2].strip().encode()
    held_ns = time.monotonic_ns()
    guard = Authenticator(ring.file, held_ns=lambda: held_ns)
    guard.check(header, "infer", "late")

    held_ns -= int(KEYS_SILENT_S * 1e9)
    guard.look()
    for sent in (header, b"Bearer wrong", None):
        with pytest.raises(Unavailable, match="has not confirmed that they hold"):
            guard.check(sent, "infer", "late")
    guard.check(None, "health", "")
    assert not guard.is_open

    held_ns = time.monotonic_ns()
    guard.look()
    guard.check(header, "infer", "late")


def test_a_file_that_stays_unreadable_closes_the_guard(ring, monkeypatch):
    header = ring("infer:late").partition(": ")[2].strip().encode()
    guard = Authenticator(ring.file)
    ring.file.write_text("[{")
    guard.look()
    guard.check(header, "infer", "late")
    monkeypatch.setattr("bascule.serving.transports.authenticator.KEYS_SILENT_S", 0.0)
    guard.look()
    with pytest.raises(Unavailable):
        guard.check(header, "infer", "late")


def _until(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_keys_that_an_earlier_process_has_left_hold_without_the_catalogue(
    tmp_path, keys, catalogue, caplog
):
    create_key(keys, "kept", [Permission("read")], now=T0, by="ada")
    with (tmp_path / "kept").open("w+b") as shared:
        said = []
        first = KeysFile(shared.fileno(), keys.stored, said.append)
        first.start()
        first.stop()
        left, content = said[-1], first.path.read_bytes()
        assert b"kept" in content
        catalogue.problem = Unavailable("the registry is away")

        second = KeysFile(shared.fileno(), catalogue.stored, said.append, written_read_ns=left)
        said.clear()
        second.start()
        assert said, "they hold at once"
        assert set(said) == {left}, "and are as old as they are"
        assert first.path.read_bytes() == content
        _until(lambda: "the registry is away" in caplog.text)
        catalogue.problem = None
        _until(lambda: said[-1] > left)
        second.stop()


def test_a_key_of_the_process_itself_opens_without_being_taken_for_one_of_the_catalogue(
    tmp_path, keys
):
    """An empty catalogue after a restart must not be taken for one that is gone."""
    with (tmp_path / "kept").open("w+b") as shared:
        for _ in range(2):
            own, token = new_key("console", [Permission("infer")], now=T0, by="x", key_id="console")
            file = KeysFile(
                shared.fileno(), keys.stored, lambda _: None, written_read_ns=1, own=[own]
            )
            file.start()
            guard = Authenticator(file.path)
            bearer = f"Bearer {token}".encode()
            _until(lambda guard=guard, bearer=bearer: guard.look() or _opens(guard, bearer))
            file.stop()


def _opens(guard, bearer):
    try:
        return guard.check(bearer, "infer", "late") == "console"
    except Unauthenticated:
        return False


@pytest.mark.parametrize("cut", [0, 10])
def test_a_file_that_its_writer_has_not_finished_is_not_taken_over(tmp_path, keys, catalogue, cut):
    with (tmp_path / "kept").open("w+b") as shared:
        first = KeysFile(shared.fileno(), keys.stored, lambda _: None)
        first.start()
        first.stop()
        os.ftruncate(shared.fileno(), cut)
        catalogue.problem = Unavailable("the registry is away")
        second = KeysFile(shared.fileno(), catalogue.stored, lambda _: None, written_read_ns=1)
        with pytest.raises(Unavailable, match="the registry is away"):
            second.start()


def test_a_key_that_is_revoked_opens_nothing_although_its_head_is_known(guarded, ring, keys, ask):
    """The caller of a head is remembered for as long as the keys are the same."""
    late, body = ring("infer:late"), json.dumps(ask([1, 2])).encode()
    guarded.on_loop(guarded.guard.look)
    with guarded.client() as client:
        for _ in range(3):
            assert client.request("POST", LATE, body, late).answer().status == 200
        keys.kept.clear()
        ring.write()
        guarded.on_loop(guarded.guard.look)
        assert client.request("POST", LATE, body, late).answer().status == 401


def test_a_key_that_expires_opens_nothing_although_its_head_is_known(guarded, ring, ask):
    late = ring("infer:late", expires_at=datetime.now(UTC) + timedelta(hours=1))
    body, guard = json.dumps(ask([1, 2])).encode(), guarded.guard
    guarded.on_loop(guard.look)
    with guarded.client() as client:
        for _ in range(3):
            assert client.request("POST", LATE, body, late).answer().status == 200
        guard._now = lambda: datetime.now(UTC) + timedelta(hours=2)
        assert client.request("POST", LATE, body, late).answer().status == 401


def test_keys_that_hold_no_more_open_nothing_although_their_heads_are_known(guarded, ring, ask):
    late, body = ring("infer:late"), json.dumps(ask([1, 2])).encode()
    guard = guarded.guard
    guarded.on_loop(guard.look)
    with guarded.client() as client:
        for _ in range(3):
            assert client.request("POST", LATE, body, late).answer().status == 200
        guard._held_ns = lambda: 0
        guarded.on_loop(guard.look)
        assert client.request("POST", LATE, body, late).answer().status == 503
