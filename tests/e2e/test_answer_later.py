"""Requests that are answered later, by real servers, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.receivers import hook
from tests.waiting import until

import bascule
from bascule.app import open_keys, open_registry
from bascule.core import Conflict, TimedOut
from bascule.kinds import runner_of
from bascule.monitoring.alerts.sinks import signature
from bascule.monitoring.ledger import Ledger
from bascule.security import Permission
from bascule.settings import load_settings

SECRET = "secret-of-callbacks"
CODE = """
import time
from pathlib import Path


class Model:
    def predict(self, columns):
        pause_s, value = columns["input"][0]
        if not Path({calls!r}).with_name("is packed").exists():  # packing asks hundreds of times
            return columns["input"][:, 1] * 2
        with Path({calls!r}).open("a") as file:
            file.write(f"{{value:g}}\\n")
        each = columns["input"][:, 0] == 0.4  # also in one run with others
        time.sleep(max(pause_s, 0.4 * each.sum()))
        return columns["input"][:, 1] * 2
"""


def rows(pause_s, value):
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 2], "data": [pause_s, value]}
    return {"inputs": [tensor]}


@dataclass
class Later:
    """Servers of one catalogue that ask for keys, and the calls of their model."""

    serve: Any
    calls: Path
    env: dict[str, str]
    stack: ExitStack

    def start(self):
        return self.serve("slow", env=self.env)

    @property
    def home(self):
        return Path(self.env["BASCULE_HOME"])

    @property
    def called(self):
        return self.calls.read_text().split() if self.calls.exists() else []

    def caller(self, server, *permissions, name=""):
        """A new key that the server knows, and what asks with it."""
        keys = open_keys(load_settings(self.home.parent, self.env))
        allowed = permissions or (Permission("infer", "slow"),)
        key, token = keys.create(name or f"k{time.monotonic_ns()}", list(allowed), by="root")
        caller = Caller(server, key, token, keys, self.stack)
        until(lambda: caller.plain(rows(0, 0)).status_code != 401)
        until(lambda: caller.http.get("models/slow").status_code != 401)
        return caller


class Caller:
    def __init__(self, server, key, token, keys, stack):
        self.key, self.keys, self.server = key, keys, server
        base = f"http://127.0.0.1:{server.control_port}/api/v1/"
        headers = {"Authorization": f"Bearer {token}"}
        self.http = stack.enter_context(httpx.Client(base_url=base, headers=headers, timeout=60))
        self.client = stack.enter_context(
            bascule.Client(
                f"http://127.0.0.1:{server.port}", model="slow", key=token,
                control_url=f"http://127.0.0.1:{server.control_port}",
            )
        )  # fmt: skip

    def plain(self, content, end="infer"):
        url = f"http://127.0.0.1:{self.server.port}/v2/models/slow/{end}"
        return httpx.post(url, json=content, headers=dict(self.http.headers), timeout=60)

    def post(self, content, *, headers=None, **query):
        return self.http.post("models/slow/inferences", json=content, params=query, headers=headers)

    def submit(self, content, **query):
        made = self.post(content, **query)
        assert made.status_code == 202, made.text
        assert made.headers["Location"] == f"/api/v1/jobs/{made.json()['id']}"
        return made.json()["id"]

    def job(self, job):
        return self.http.get(f"jobs/{job}").json()

    def answer(self, job):
        return self.http.get(f"jobs/{job}/answer")

    def ended(self, job, within_s=40.0):
        until(lambda: self.job(job)["ended_at"], within_s)
        return self.job(job)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Answers twice the second value of a row after its first in seconds, and notes each call."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(CODE.format(calls=str(folder / "calls")))
    model = bascule.PythonModel("slow:Model", code=folder / "slow.py")
    data = np.array([[0.0, 1.0], [0.0, 2.0]])
    made = bascule.pack(model, name="slow", train=data, to=folder / "slow", measure=False)
    (folder / "is packed").touch()
    return made.path


def made_later(serve, slow, folder, stack, store="sqlite", **more):
    calls = slow.parent / "calls"
    calls.unlink(missing_ok=True)
    env = {
        "BASCULE_HOME": str(folder / "home"), "BASCULE_SECURITY__CALLERS": "keys",
        "BASCULE_MONITORING__LEDGER": "on", "BASCULE_SERVING__DEADLINE_S": "1",
        "BASCULE_REGISTRY__STORE": store, **more,
    }  # fmt: skip
    open_registry(load_settings(folder, env)).push(slow, by="ada")
    return Later(serve, calls, env, stack)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def later(request, serve, slow, tmp_path):
    """Servers that a test may kill."""
    is_file = request.param == "sqlite"
    store = "sqlite" if is_file else request.getfixturevalue("postgresql_url")
    with ExitStack() as stack:
        yield made_later(serve, slow, tmp_path, stack, store)


@pytest.fixture(scope="module")
def told():
    """What is called back."""
    with hook() as made:
        yield made


@pytest.fixture(scope="module")
def here(start, slow, told, tmp_path_factory):
    """One server for what leaves it as it is."""
    folder, more = tmp_path_factory.mktemp("here"), {}
    more["BASCULE_DEFERRED__CALLBACKS"] = json.dumps([told.url])
    more["BASCULE_DEFERRED__CALLBACK_SECRET"] = SECRET
    with ExitStack() as stack:
        made = made_later(start, slow, folder, stack, **more)
        server = made.start()
        yield made, server
        server.process.stdout.close()
        server.end()


@pytest.fixture
def caller(here):
    return here[0].caller(here[1])


def test_an_answer_that_outlasts_the_deadline_is_that_of_the_plain_request(here, caller):
    assert caller.plain(rows(1.5, 3)).status_code == 504

    job = caller.submit(rows(1.5, 3))
    assert caller.answer(job).status_code == 409
    ended, at_once = caller.ended(job), caller.plain({"id": job, **rows(0, 3)})

    answer = caller.answer(job)
    assert (ended["state"], ended["result"]["bytes"]) == ("done", len(answer.content))
    assert answer.content == at_once.content
    assert answer.headers["content-type"] == at_once.headers["content-type"]
    question = f"SELECT caller FROM predictions WHERE id = '{job}'"
    ledger = Ledger(here[0].home)
    until(lambda: ledger.query(question).num_rows == 2)
    assert set(ledger.query(question)["caller"].to_pylist()) == {caller.key.id}


def test_the_client_reads_the_same_answer_later(caller):
    data = np.array([[0.0, 4.0], [0.0, 5.0]])
    asked = caller.client.submit(data)
    answer = asked.result()
    now = caller.client.predict(data)
    assert {name: values.tolist() for name, values in answer.items()} == {
        name: values.tolist() for name, values in now.items()
    }
    assert answer.ids == [f"{asked.id}#0", f"{asked.id}#1"]


def test_a_request_is_cancelled(caller):
    asked = caller.client.submit(np.array([[4.0, 1.0]]))
    with pytest.raises(TimedOut):
        asked.result(timeout_s=0.2)
    asked.cancel()
    until(lambda: asked.state not in ("queued", "running"))
    assert asked.state == "cancelled", caller.job(asked.id)["error"]
    with pytest.raises(Conflict):
        asked.result()
    with pytest.raises(Conflict):
        asked.cancel()


def test_an_error_of_the_model_is_that_of_the_plain_request(caller):
    job = caller.submit({"inputs": []})
    assert caller.ended(job)["state"] == "failed"
    answer, plain = caller.answer(job), caller.plain({"inputs": []})
    assert answer.status_code == plain.status_code == 400
    assert plain.json()["error"] in answer.json()["detail"]


def test_the_end_is_told_until_it_is_taken_and_no_other_address_is_called(caller, told):
    told.answers.append((503, {}))
    assert caller.post(rows(0, 1), callback="http://127.0.0.1:1/").status_code == 403
    job = caller.submit(rows(0, 1), callback=told.url)
    told.wait(lambda made: made.taken)

    (first, _), (headers, body) = told.requests
    said = json.loads(body)
    assert {name: said[name] for name in ("job", "model", "state", "link")} == {
        "job": job, "model": "slow", "state": "done", "link": f"/api/v1/jobs/{job}/answer",
    }  # fmt: skip
    assert first["Idempotency-Key"] == headers["Idempotency-Key"] == said["id"]
    at_s = int(headers["Bascule-Signature"].partition(",")[0].removeprefix("t="))
    assert headers["Bascule-Signature"] == signature(SECRET.encode(), body, at_s)


def test_a_request_that_is_sent_twice_is_one_job(here, caller):
    headers = {"Idempotency-Key": '"once"'}
    sent = [caller.post(rows(0, 77), headers=headers) for _ in range(2)]
    assert [one.status_code for one in sent] == [202, 202]
    assert sent[0].json()["id"] == sent[1].json()["id"]
    caller.ended(sent[0].json()["id"])
    assert here[0].called.count("77") == 1
    assert caller.post(rows(0, 78), headers=headers).status_code == 422


def test_a_caller_may_have_so_many_under_way_and_another_one_more(here, caller):
    jobs = [caller.submit(rows(4, 1)) for _ in range(8)]
    refused = caller.post(rows(4, 1))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
    other = here[0].caller(here[1])
    waiting = other.submit(rows(0, 1))
    for job in jobs:
        caller.http.delete(f"jobs/{job}")
    assert other.ended(waiting)["state"] == "done"


def test_no_other_key_reads_or_ends_it_and_a_key_of_another_model_submits_none(here, caller):
    other = here[0].caller(here[1])
    job = caller.submit(rows(0, 1))
    caller.ended(job)
    assert other.answer(job).status_code == 403
    assert other.http.delete(f"jobs/{job}").status_code == 403
    stranger = here[0].caller(here[1], Permission("infer", "other"))
    assert stranger.post(rows(0, 1)).status_code == 403


def test_a_new_key_of_the_name_of_an_old_one_reads_none_of_its_answers(here, caller):
    job = caller.submit(rows(0, 1))
    caller.ended(job)
    caller.keys.end(caller.key.id, by="root")
    new = here[0].caller(here[1], name=caller.key.name)
    assert new.answer(job).status_code == 403
    assert new.http.get(f"jobs/{job}").status_code == 403


def test_a_key_cannot_ask_for_another(here, caller):
    """Only the server's own key may."""
    own = caller.http.headers["Authorization"]
    forged = {"Authorization": f"{own} for {here[0].caller(here[1]).key.id}"}
    url = f"http://127.0.0.1:{here[1].port}/v2/models/slow/infer"
    assert httpx.post(url, json=rows(0, 1), headers=forged).status_code == 401


def test_a_request_ends_with_the_key_that_submitted_it(here, caller):
    job = caller.submit(rows(8, 1))
    until(lambda: caller.job(job)["state"] == "running")
    caller.keys.end(caller.key.id, by="root")
    jobs = runner_of(load_settings(here[0].home.parent, here[0].env))
    until(lambda: jobs.get(job).is_ended)
    assert "revoked" in jobs.get(job).problem.message
    assert caller.answer(job).status_code == 401


@pytest.mark.slow
def test_an_answer_is_gone_after_its_time(serve, slow, tmp_path):
    with ExitStack() as stack:
        kept_s = 2.0
        later = made_later(
            serve, slow, tmp_path, stack, BASCULE_DEFERRED__KEPT_HOURS=str(kept_s / 3_600)
        )
        caller = later.caller(later.start())
        job = caller.submit(rows(0, 1))
        caller.ended(job)
        until(lambda: caller.answer(job).status_code == 410)


@pytest.mark.slow
def test_a_killed_server_leaves_it_to_the_next_one(later):
    server = later.start()
    caller = later.caller(server)
    job = caller.submit(rows(4, 9))
    until(lambda: "9" in later.called)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()

    caller = moved(caller, later.start(), later)
    ended = caller.ended(job)

    assert (ended["state"], ended["attempt"]) == ("done", 2), ended["error"]
    assert caller.answer(job).json()["outputs"][0]["data"] == [18.0]
    folder = later.home / "deferred"
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    assert len(names) == 2
    assert ended["result"]["file"] in names


def test_another_server_takes_over_what_was_submitted_to_one_that_is_killed(later):
    servers = [later.start(), later.start()]
    caller = later.caller(servers[0])
    jobs = [caller.submit(rows(2, 20 + number)) for number in range(4)]
    until(lambda: {"20", "21"} <= {*later.called})
    servers[0].process.send_signal(signal.SIGKILL)

    caller = moved(caller, servers[1], later)
    for number, job in enumerate(jobs):
        assert caller.ended(job)["state"] == "done"
        assert caller.answer(job).json()["outputs"][0]["data"] == [40.0 + 2 * number]


@pytest.mark.slow
def test_hosts_that_share_catalogue_and_bucket_run_and_answer_what_either_was_asked(
    serve, slow, tmp_path, postgresql_url, s3_url
):
    """Each host has a home of its own; the one that was asked is killed."""
    more = {"BASCULE_REGISTRY__OBJECTS": s3_url, "BASCULE_MONITORING__LEDGER": "off"}
    with ExitStack() as stack:
        later = made_later(serve, slow, tmp_path, stack, postgresql_url, **more)
        first = later.start()
        later.env = {**later.env, "BASCULE_HOME": str(tmp_path / "other")}
        second = later.start()
        caller = later.caller(first)
        jobs = [caller.submit(rows(4, 40 + number)) for number in range(2)]
        until(lambda: {"40", "41"} <= {*later.called})  # side by side: one on each
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()

        caller = moved(caller, second, later)
        ended = [caller.ended(job) for job in jobs]
        assert [one["attempt"] for one in ended] == [2, 1]
        data = [caller.answer(job).json()["outputs"][0]["data"] for job in jobs]
        assert data == [[80.0], [82.0]]
        assert not list(tmp_path.glob("*/deferred"))


def test_callers_who_wait_go_before_those_who_do_not(here, caller):
    """Five deferred runs of 0.4 s wait: all of them at once would block the model for 2 s."""
    until(lambda: caller.plain(rows(0, 0)).status_code == 200)  # what others left has ended
    jobs = [caller.submit(rows(0.4, 50 + number)) for number in range(5)]
    until(lambda: "50" in here[0].called)
    took_s = []
    for _ in range(4):
        began_s = time.monotonic()
        assert caller.plain(rows(0, 6)).status_code == 200
        took_s.append(time.monotonic() - began_s)
        time.sleep(0.05)  # a deferred run begins, behind which the next call waits
    assert max(took_s) < 0.9, took_s  # a run that has begun, and little more
    assert all(caller.ended(job)["state"] == "done" for job in jobs)


def test_the_async_client_submits_reads_and_cancels_as_the_other(here, caller):
    async def asked():
        place = f"http://127.0.0.1:{here[1].port}"
        token = caller.http.headers["Authorization"].partition(" ")[2]
        control = f"http://127.0.0.1:{here[1].control_port}"
        async with bascule.AsyncClient(place, model="slow", key=token, control_url=control) as one:
            first, second = [await one.submit(np.array([[s, 4.0]])) for s in (0.0, 3.0)]
            answers = await asyncio.gather(*(first.result() for _ in range(9)))
            with pytest.raises(TimedOut):
                await second.result(timeout_s=0.1)
            await second.cancel()
            return first, answers, await second.state()

    first, answers, state = asyncio.run(asked())
    assert [answer.ids for answer in answers] == [[f"{first.id}#0"]] * 9
    assert np.asarray(answers[0]).tolist() == [8.0]
    assert state in ("running", "cancelled")


def test_commands_submit_fetch_and_cancel(here, caller, command, tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_KEY", caller.http.headers["Authorization"].partition(" ")[2])
    remote = ("--server", f"http://127.0.0.1:{here[1].control_port}", "jobs")
    url = ("--url", f"http://127.0.0.1:{here[1].port}", "--json")
    np.save(tmp_path / "fast.npy", np.array([[0.0, 4.0]] + [[0.0, 5.0]] * 20))
    np.save(tmp_path / "slow.npy", np.array([[4.0, 4.0]]))
    fast, slow = (
        json.loads(command(*remote, "infer", "slow", tmp_path / f"{name}.npy", *url)[1])["job"]
        for name in ("fast", "slow")
    )
    code, said, _ = command(*remote, "answer", fast, "--wait", "30", "--json")
    assert (code, [[*row.values()] for row in json.loads(said)]) == (0, [[8.0]] + [[10.0]] * 20)
    assert "20 of 21 rows; --json takes them all" in command(*remote, "answer", fast)[2]
    code, _, errors = command(*remote, "answer", slow)
    assert code != 0
    assert "ask again later" in errors
    assert command(*remote, "cancel", slow)[0] == 0
    assert caller.ended(slow)["state"] == "cancelled"
    _, said, _ = command(*remote, "infer", "slow", tmp_path / "fast.npy", *url[:2])
    assert command(*said.split()[1:])[1].count("10.0") == 19


def moved(caller, server, later):
    """The same key, at another server."""
    token = caller.http.headers["Authorization"].partition(" ")[2]
    return Caller(server, caller.key, token, caller.keys, later.stack)
